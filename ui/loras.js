// The LoRAs tab in the browser: search, cards, a ref or a file of one's own. Runs inside gr.HTML, which hands over
// `element`, `props`, `server` and `watch`, behind dom.js and lora_panel.js.
const TYPING = 300; // ms without a key after which a search begins
const AGAIN = 1500; // ms after which the Hub may have answered
const MOST_AGAIN = 8;
const PAGE = 24;
const FITTING = "fitting"; // the family of the model that is chosen on Create
const SORTS = { downloads: "Most downloaded", likes: "Most liked", recent: "Newest" };
const OTHER = "other"; // a licence to be typed
const LICENCES = ["apache-2.0", "mit", "openrail++", "creativeml-openrail-m", "cc0-1.0", "cc-by-4.0"];
const SOURCES = { bundled: "bundled", curated: "hand-picked", local: "yours", hub: "Hub" };

const short = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

const ask = async (what, asked) => {
  try {
    return await server[what]({ ...asked, visitor: window.loom.visitor(), token: window.loom.token() });
  } catch {
    return { error: "LoRA Loom does not answer: look at your connection, then try again." };
  }
};

const inspect = (ref) => ask("inspect", { ref, model: window.loom.blend().model });
const panel = makePanel(inspect);

// What is asked for ------------------------------------------------------------------------------------------------------

const labelled = (text, control, className = "") => {
  const label = make("label", className);
  label.append(make("span", "", text), control);
  return label;
};

const choice = (options) => {
  const select = make("select");
  select.append(...Object.entries(options).map(([value, text]) => new Option(text, value)));
  return select;
};

const field = (type, placeholder) => Object.assign(make("input"), { type, placeholder, autocomplete: "off", spellcheck: false });

const query = field("search", "A style, a subject, an author …");
query.maxLength = 200;
const family = choice({ [FITTING]: "", "": "All families", ...props.families });
const sort = choice(SORTS);
const named = Object.fromEntries(LICENCES.map((name) => [name, name]));
const licence = choice({ "": "Any licence", ...named, [OTHER]: "Another …" });
const otherLicence = field("text", "such as cc-by-sa-4.0");
otherLicence.maxLength = 100;
otherLicence.setAttribute("aria-label", "The other licence");
otherLicence.hidden = true;
const nsfw = field("checkbox", "");

const seek = make("form", "seek");
seek.setAttribute("role", "search");
seek.append(
  labelled("Search", query, "query"),
  labelled("Family", family),
  labelled("Sort", sort),
  labelled("Licence", licence),
  otherLicence,
  labelled("Show NSFW, blurred", nsfw, "switch"),
);

const asked = () => ({
  query: query.value.trim(),
  family: family.value === FITTING ? window.loom.blend().family : family.value,
  sort: sort.value,
  licence: licence.value === OTHER ? otherLicence.value.trim() : licence.value,
  nsfw: nsfw.checked,
  limit: PAGE,
});

const ref = field("text", "USER/REPO, USER/REPO:file.safetensors, or an address on the Hub");
ref.required = true;
const look = make("form", "look");
const lookButton = make("button", "act", "Look");
look.append(labelled("Have one already? Paste its ref or address", ref), lookButton);

const token = field("password", "hf_…");
token.autocomplete = "new-password"; // no browser offers to keep it
token.maxLength = 200;
const gate = make("details", "gate");
gate.append(
  make("summary", "", "Gated or private? Bring your own Hub token"),
  labelled("Your Hub token", token),
  make("p", "hint", "It goes to this server and on to the Hub, is kept nowhere, and is forgotten when you close the page."),
);

// What is found ----------------------------------------------------------------------------------------------------------

const note = make("p", "note");
note.setAttribute("role", "status");
const list = make("div", "cards");
const moreButton = make("button", "act more", "More");
moreButton.type = "button";
const tray = make("div", "tray");
tray.setAttribute("role", "status");

const sayings = new Map(); // by ref: what a click on a card came to, where that is no LoRA in the blend
const nodes = new Map(); // by ref, so that a new answer leaves known cards as they are
let cards = [];
let next = null;
let turn = 0;
let timer = 0;

const line = (className, text) => (text ? [make("p", className, text)] : []);

const countsOf = (card) => {
  if (!card.downloads && !card.likes) return ""; // nobody counts, or nobody has looked yet
  return `${short.format(card.downloads).toLowerCase()} downloads · ${short.format(card.likes).toLowerCase()} likes`;
};

const marksOf = (card) => [card.gated && "gated", card.private && "private", !card.checked && "not checked yet"].filter(Boolean);

const pick = async (card) => {
  const woven = window.loom.woven(card.ref);
  if (woven) return window.loom.unweave(woven.ref);
  if (sayings.get(card.ref)?.busy) return;
  const { model } = window.loom.blend();
  sayings.set(card.ref, { busy: true, text: "Looking at its header …" });
  mark();
  const answer = await inspect(card.ref);
  sayings.delete(card.ref);
  if (model !== window.loom.blend().model) return mark(); // the verdict was about another model
  if (answer.files) {
    panel.open(nodes.get(card.ref).node, nodes.get(card.ref).pick);
    panel.show(answer);
  } else if (answer.error) sayings.set(card.ref, { text: answer.error, address: answer.address });
  else if (answer.fits === "no") sayings.set(card.ref, { text: answer.why_not });
  else take({ ...answer, picture: card.picture });
  mark();
};

const cardNode = (card) => {
  const node = make("article", "lora");
  node.dataset.ref = card.ref;
  node.setAttribute("aria-label", card.title);
  const picking = make("button", "pick");
  picking.type = "button";
  picking.append(picture(card), make("span", "title", card.title));
  picking.addEventListener("click", () => pick(card));
  const badges = make("p", "badges");
  badges.append(make("span", "badge", familyTitle(card.family)), make("span", "badge", SOURCES[card.source] ?? card.source));
  badges.append(...marksOf(card).map((mark) => make("span", "badge mark", mark)));
  const said = make("p", "said");
  said.setAttribute("role", "status");
  const details = button("tool details", "Details", `Details of ${card.title}`, () => {
    panel.open(node, details);
    panel.look(card.ref);
  });
  node.append(picking, ...line("author", card.author && `by ${card.author}`), badges);
  node.append(...line("counts", countsOf(card)), ...line("licence", licenceOf(card)));
  node.append(...line("triggers", card.triggers.length && `Say ${quotedWords(card.triggers)}`), said, details);
  const reveal = () => node.classList.add("shown");
  if (card.nsfw && card.picture) node.append(button("tool reveal", "Show", `Show the picture of ${card.title}`, reveal));
  return { node, pick: picking, said, card: JSON.stringify(card) };
};

/** Says on every card whether it is picked, and what its click came to. */
const mark = () => {
  cards.forEach((card) => {
    const { node, pick: picking, said } = nodes.get(card.ref);
    const picked = Boolean(window.loom.woven(card.ref));
    const { text = "", address, busy = false } = sayings.get(card.ref) ?? {};
    node.classList.toggle("picked", picked);
    picking.setAttribute("aria-pressed", picked);
    picking.setAttribute("aria-label", `${picked ? "Remove" : "Add"} ${card.title} ${picked ? "from" : "to"} the blend`);
    said.classList.toggle("busy", busy);
    if (said.dataset.text === text) return;
    said.dataset.text = text;
    said.replaceChildren(text, ...(address ? [" ", addressOf(address)] : []));
  });
};

const draw = () => {
  cards.forEach((card) => {
    if (nodes.get(card.ref)?.card !== JSON.stringify(card)) nodes.set(card.ref, cardNode(card));
  });
  const shown = cards.map((card) => nodes.get(card.ref).node);
  const opened = shown.indexOf(panel.node.previousElementSibling);
  if (opened >= 0) shown.splice(opened + 1, 0, panel.node);
  list.replaceChildren(...shown);
  moreButton.hidden = next === null;
  mark();
};

const nothing = () => "No LoRA matches: try fewer words, all families or any licence, or paste a ref above.";

/** Asks for the page behind `cursor`, whose cards stand behind the first `before`; again while the Hub is asked. */
const search = async (cursor = null, before = 0, times = 0) => {
  clearTimeout(timer);
  const mine = ++turn;
  list.setAttribute("aria-busy", "true");
  const answer = await ask("search", { ...asked(), cursor });
  if (mine !== turn) return;
  list.setAttribute("aria-busy", "false");
  if (answer.error) {
    note.textContent = answer.error;
    return;
  }
  const known = new Set(cards.slice(0, before).map((card) => card.ref));
  cards = [...cards.slice(0, before), ...answer.cards.filter((card) => !known.has(card.ref))];
  next = answer.next;
  draw();
  const waiting = answer.refreshing && times < MOST_AGAIN;
  const sentences = [answer.note, waiting && "Asking the Hub …", !waiting && !cards.length && nothing()];
  note.textContent = sentences.filter(Boolean).join(" ");
  if (waiting) timer = setTimeout(() => search(cursor, before, times + 1), AGAIN);
};

const soon = () => {
  clearTimeout(timer);
  timer = setTimeout(search, TYPING);
};

// Wiring -----------------------------------------------------------------------------------------------------------------

const drawTray = (adding) => {
  const { length } = window.loom.blend().rows;
  const back = make("button", "act", "Back to Create");
  back.type = "button";
  back.addEventListener("click", () => window.loom.turnTo("create"));
  tray.hidden = length === 0;
  const said = `${adding ? "Added to the blend" : "In the blend"}: ${length} LoRA${length === 1 ? "" : "s"}`;
  tray.replaceChildren(make("span", "", said), back);
  return length;
};

let woven = drawTray(false);
let fitting = null;

const fit = () => {
  const { family: now, title } = window.loom.blend();
  if (now === fitting) return;
  fitting = now;
  family.options[0].text = `For ${title}`;
  sayings.clear();
  if (family.value === FITTING) search();
  else mark();
};

document.addEventListener("loom:blend", () => {
  const { rows } = window.loom.blend();
  if (rows.length !== woven) woven = drawTray(rows.length > woven);
  fit();
  mark();
});

seek.addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
token.addEventListener("input", () => window.loom.bring(token.value));
query.addEventListener("input", soon);
otherLicence.addEventListener("input", soon);
[family, sort, nsfw].forEach((control) => control.addEventListener("change", () => search()));
licence.addEventListener("change", () => {
  otherLicence.hidden = licence.value !== OTHER;
  if (otherLicence.hidden) search();
  else otherLicence.focus();
});
moreButton.addEventListener("click", () => search(next, cards.length));

look.addEventListener("submit", (event) => {
  event.preventDefault();
  panel.open(home, ref);
  panel.look(ref.value.trim());
});

const home = make("div", "home"); // where the panel opens for what is no card
element.querySelector(".loras-ask").append(seek, look, gate);
element.querySelector(".loras-found").append(home, note, list, moreButton, tray);

element.addEventListener("change", ({ target }) => {
  const [file] = target.files ?? [];
  if (!file) return;
  panel.open(home, ref);
  const tooLarge = `“${file.name}” has ${megabytes(file.size)}, and at most ${megabytes(props.largest)} are taken here.`;
  if (file.size > props.largest) panel.show({ error: tooLarge });
  else panel.wait(`Uploading ${file.name} …`);
});
watch("value", () => {
  if (!props.value) return;
  panel.open(home, ref);
  panel.show(props.value);
  search(); // it stands among the cards now
});

fit();
