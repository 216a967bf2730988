// The panel: what a LoRA's header says of it, or the sentence why it cannot be looked into, and what can be done next.
const PARTS = {
  unet: "the UNet",
  transformer: "the transformer",
  text_encoder: "the text encoder",
  text_encoder_2: "the second text encoder",
  text_encoder_3: "the third text encoder",
};

const familyTitle = (family) => props.families[family] ?? "unknown";
const licenceOf = (lora) => lora.licence ?? "no licence named";
const quotedWords = (words) => words.map((word) => `“${word}”`).join(", ");
const megabytes = (bytes) => `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;

const ranksOf = ({ ranks }) => {
  if (ranks.length > 3) return `${Math.min(...ranks)} to ${Math.max(...ranks)}`;
  return ranks.join(", ") || "unknown";
};

const layersOf = ({ layers, parts }) => {
  const each = Object.entries(parts).map(([part, count]) => `${count} in ${PARTS[part] ?? part}`);
  return each.length > 1 ? `${layers}: ${each.join(", ")}` : each[0] ?? "unknown";
};

const factsOf = (lora) => ({
  Ref: lora.ref,
  Family: familyTitle(lora.family),
  "Trained on": lora.base,
  Format: lora.format,
  Rank: ranksOf(lora),
  Layers: layersOf(lora),
  Size: megabytes(lora.bytes),
  Licence: licenceOf(lora),
  "Trigger words": quotedWords(lora.triggers),
  Access: [lora.gated && "gated: its author has terms to accept", lora.private && "private"].filter(Boolean).join(", "),
});

const listed = (facts) => {
  const list = make("dl");
  Object.entries(facts).forEach(([name, text]) => {
    if (text) list.append(make("dt", "", name), make("dd", "", text));
  });
  return list;
};

const verdictOf = (lora, title) => make("p", `verdict ${lora.fits}`, lora.why_not ?? `It fits ${title}.`);

const addressOf = (address) => {
  const link = make("a", "", "Open its page on the Hub");
  Object.assign(link, { href: address, target: "_blank", rel: "noopener noreferrer" });
  return link;
};

const take = (lora) => window.loom.weave({ ...lora, caution: lora.why_not, also: window.loom.blend().family });

/** `inspect(ref)` gives the answer about another ref: that of a file chosen here. */
const makePanel = (inspect) => {
  const node = make("section", "panel");
  node.setAttribute("aria-label", "About this LoRA");
  node.tabIndex = -1;
  node.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });
  let opener = null;
  let newest = 0;

  const close = () => {
    newest += 1;
    node.remove();
    opener?.focus();
  };

  const fill = (...parts) => {
    node.replaceChildren(button("tool close", "Close", "Close this panel", close), ...parts);
    node.focus({ preventScroll: true });
    node.scrollIntoView({ block: "nearest" });
  };

  const action = (className, text, onClick) => {
    const act = make("button", className, text);
    act.type = "button";
    act.addEventListener("click", onClick);
    return act;
  };

  const weaving = (lora) => {
    const woven = window.loom.woven(lora.ref);
    if (woven) return action("act", "Remove from the blend", () => { window.loom.unweave(woven.ref); show(lora); });
    return action("act primary", "Add to the blend", () => { take(lora); show(lora); });
  };

  const offer = ({ name, ref }) => action("chip", name, () => look(ref, name.replace(/\.safetensors$/, "")));

  const refusal = ({ error, files = [], address }) => {
    const said = make("p", "refusal", error);
    said.setAttribute("role", "alert");
    const offers = make("div", "files");
    offers.append(...files.map(offer));
    return [said, offers, ...(address ? [addressOf(address)] : [])];
  };

  const preflight = (lora) => {
    const head = make("div", "about-it");
    const said = make("details", "metadata");
    said.append(make("summary", "", "What its trainer wrote into the file"), listed(lora.metadata));
    head.append(make("h3", "", lora.title), verdictOf(lora, window.loom.blend().title), listed(factsOf(lora)));
    if (Object.keys(lora.metadata).length) head.append(said);
    if (lora.fits !== "no") head.append(weaving(lora));
    return [picture(lora), head];
  };

  /** Shows an answer: a preflight or an error. */
  const show = (answer) => {
    newest += 1;
    fill(...(answer.error ? refusal(answer) : preflight(answer)));
  };

  const wait = (sentence) => {
    const said = make("p", "waiting", sentence);
    said.setAttribute("role", "status");
    fill(said);
    return (newest += 1);
  };

  /** `name` tells a file of several from its siblings. */
  const look = async (ref, name) => {
    const mine = wait("Looking at its header …");
    const answer = await inspect(ref);
    if (mine === newest) show(name ? { ...answer, title: `${answer.title}, ${name}` } : answer);
  };

  /** Puts the panel behind `place`; closing gives the focus back to `from`. */
  const open = (place, from) => {
    opener = from;
    place.after(node);
  };

  return { node, open, show, wait, look, close };
};
