// The blend rows in the browser: cards to pick from, and the picked ones with their weights. Runs inside gr.HTML, which
// hands over `element`, `props` and `watch`, behind dom.js.
const root = element.querySelector(".blend");

const tell = () => document.dispatchEvent(new CustomEvent("loom:blend"));
const rows = () => JSON.parse(JSON.stringify(props.value?.rows ?? []));
const keep = (changed) => {
  props.value = { ...props.value, rows: changed };
  tell();
};
const change = (ref, edit) => keep(rows().map((row) => (row.ref === ref ? { ...row, ...edit(row) } : row)));

// Two refs mean the same LoRA whatever their revisions; one without a file means any file of its repo.
const named = (ref) => /^(?<repo>[^:@]+\/[^:@]+)(?:@[^:]*)?(?::(?<file>.+))?$/.exec(ref)?.groups ?? { repo: ref };
const same = (one, other) => {
  const [a, b] = [named(one), named(other)];
  return a.repo === b.repo && (!a.file || !b.file || a.file === b.file);
};

const woven = (ref) => rows().find((row) => same(row.ref, ref));

// `caution` is a sentence where a LoRA may not fit, or not wholly, the model family `also`, whatever its own family is.
const weave = ({ ref, title, family, triggers, weight, picture, nsfw = false, caution = null, also = null }) => {
  const row = { ref, title, family, also, triggers, weight, picture, nsfw, caution, muted: false, why_not: null };
  keep([...rows().filter((other) => !same(other.ref, ref)), { ...row, said: woven(ref)?.said ?? [] }]);
  draw();
};

const unweave = (ref) => {
  const leaving = rows().filter((row) => same(row.ref, ref));
  leaving.flatMap((row) => row.said).forEach((word) => window.loom.unsay(word));
  keep(rows().filter((row) => !same(row.ref, ref)));
  draw();
};

// What was applied of each LoRA when the model chosen now drew last.
let drawn = { model: null, loras: [] };
const receiptOf = (row) => {
  const lora = drawn.model === props.value?.model && drawn.loras.find(({ ref }) => same(ref, row.ref));
  if (!lora?.receipt || lora.muted) return null;
  const { applied, total } = lora.receipt;
  const node = make("span", applied < total ? "receipt partial" : "receipt", `${applied} of ${total}`);
  node.append(make("span", "unit", " layers"));
  node.title = applied < total ? "Applied in part: the recipe tells what was left out" : "Applied wholly";
  return node;
};

const weightOf = (row) => {
  const line = make("div", "weight");
  const slider = make("input");
  const number = make("input");
  Object.assign(slider, { type: "range", min: -1, max: 2, step: 0.05, value: row.weight });
  Object.assign(number, { type: "number", min: -5, max: 5, step: 0.05, value: row.weight });
  slider.disabled = number.disabled = Boolean(row.why_not);
  slider.setAttribute("aria-label", `Weight of ${row.title}`);
  number.setAttribute("aria-label", `Weight of ${row.title}, from -5 to 5`);
  const fill = () => slider.style.setProperty("--filled", `${((slider.value - slider.min) / (slider.max - slider.min)) * 100}%`);
  const set = (text, other) => {
    const weight = Number(text);
    if (text === "" || !Number.isFinite(weight)) return; // half-typed: the last weight stands
    other.value = weight;
    change(row.ref, () => ({ weight }));
    fill();
  };
  slider.addEventListener("input", () => set(slider.value, number));
  number.addEventListener("input", () => set(number.value, slider));
  number.dataset.part = "weight";
  fill();
  line.append(slider, number);
  return line;
};

const wordsOf = (row) => {
  const line = make("div", "words");
  line.append(make("span", "hint", "Say"));
  row.triggers.forEach((word) => {
    const said = row.said.includes(word);
    const chip = button(said ? "chip said" : "chip", word, said ? `Take “${word}” out of the prompt` : `Add “${word}” to the prompt`, () => {
      if (said) window.loom.unsay(word);
      else window.loom.say(word, ", ");
      change(row.ref, (old) => ({ said: said ? old.said.filter((other) => other !== word) : [...old.said, word] }));
      draw();
    });
    chip.setAttribute("aria-pressed", said);
    line.append(chip);
  });
  return line;
};

const rowOf = (row) => {
  const node = make("div", "thread");
  node.dataset.ref = row.ref;
  node.classList.toggle("muted", row.muted);
  node.classList.toggle("unfit", Boolean(row.why_not));
  const head = make("div", "head");
  const mute = button("tool", row.muted ? "Unmute" : "Mute", `${row.muted ? "Unmute" : "Mute"} ${row.title}`, () => {
    change(row.ref, (old) => ({ muted: !old.muted }));
    draw();
  });
  mute.setAttribute("aria-pressed", row.muted);
  const receipt = receiptOf(row);
  head.append(make("span", "title", row.title), ...(receipt ? [receipt] : []), mute, button("tool", "Remove", `Remove ${row.title}`, () => unweave(row.ref)));
  const body = make("div", "body");
  body.append(head, weightOf(row));
  if (row.why_not) body.append(make("p", "why-not", row.why_not));
  else {
    if (row.caution && row.also === props.value.family) body.append(make("p", "caution", row.caution));
    const foot = make("div", "foot");
    if (row.triggers.length) foot.append(wordsOf(row));
    foot.append(moreOf(row));
    body.append(foot);
  }
  node.append(picture(row), body);
  return node;
};

const cardOf = (card, picked) => {
  const node = make("button", picked ? "card picked" : "card");
  node.type = "button";
  node.dataset.ref = card.ref;
  node.title = [card.description, card.licence && `Licence: ${card.licence}`].filter(Boolean).join("\n");
  node.setAttribute("aria-pressed", Boolean(picked));
  node.append(picture(card), make("span", "title", card.title));
  node.addEventListener("click", () => (picked ? unweave(picked.ref) : weave(card)));
  return node;
};

const fits = () => (props.cards ?? []).filter((card) => card.family === props.value?.family);

const draw = () => {
  const picked = rows();
  const fitting = fits();
  const focused = root.contains(document.activeElement) ? document.activeElement.getAttribute("aria-label") : null;
  const threads = make("div", "threads");
  threads.append(...picked.map(rowOf));
  if (picked.length) threads.append(together());
  const shelf = make("div", "shelf");
  shelf.setAttribute("role", "group");
  shelf.setAttribute("aria-label", "LoRAs for this model");
  shelf.append(...fitting.map((card) => cardOf(card, picked.find((row) => row.ref === card.ref))));
  const hint = make("p", "hint", fitting.length ? "Pick LoRAs to weave in; each has a weight of its own." : "No LoRAs come with this model.");
  const more = make("button", "more", "Find more LoRAs");
  more.type = "button";
  more.addEventListener("click", () => window.loom.turnTo("loras"));
  const scrolled = root.querySelector(".shelf")?.scrollLeft ?? 0;
  const head = make("div", "over-shelf");
  head.append(make("h2", "", "Blend"), more);
  root.replaceChildren(head, ...(picked.length ? [] : [hint]), shelf, threads);
  shelf.scrollLeft = scrolled;
  if (focused) [...root.querySelectorAll("[aria-label]")].find((node) => inWords(node.getAttribute("aria-label")) === focused)?.focus();
};

const receipts = (recipe) => {
  drawn = { model: recipe.model.key, loras: recipe.loras };
  draw();
};

window.loom = { ...window.loom, weave, unweave, woven, receipts, cards: fits, blend: () => ({ ...props.value, rows: rows() }) };

watch("value", () => {
  draw();
  tell();
});
draw();
