// The History tab in the browser: what is asked for, cards as far as one scrolls, and what is done with those chosen. Runs
// inside gr.HTML, which hands over `element`, `props`, `server`, `watch` and `trigger`, behind dom.js and history_dialogs.js.
const TYPING = 300; // ms without a key after which a search begins
const NEAR = "1500px 0px"; // how far from the window cards are made before they are seen, and kept after
const PAGE = props.at_once;

const ask = async (what, asked) => {
  try {
    return await server[what]({ ...asked, visitor: window.loom.visitor(), token: window.loom.token() });
  } catch {
    return { error: "LoRA Loom does not answer: look at your connection, then try again." };
  }
};

// Words ------------------------------------------------------------------------------------------------------------------

const exactly = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "long", timeStyle: "medium" });
const dated = new Intl.DateTimeFormat(document.documentElement.lang, { dateStyle: "medium" });

const ago = (then) => {
  const minutes = Math.floor((Date.now() - then) / 60_000);
  if (minutes < 1) return "just now";
  if (minutes < 60) return `${minutes} min ago`;
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)} h ago`;
  return minutes < 7 * 24 * 60 ? `${Math.floor(minutes / 60 / 24)} d ago` : dated.format(then);
};

const tell = (time) => (time.textContent = ago(new Date(time.dateTime)));
const counted = (number) => `${number} picture${number === 1 ? "" : "s"}`;

// What is asked for ------------------------------------------------------------------------------------------------------

const labelled = (text, control, className) => {
  const label = make("label", className);
  label.append(make("span", "", text), control);
  return label;
};
const field = (type, placeholder) => Object.assign(make("input"), { type, placeholder, maxLength: 200, autocomplete: "off", spellcheck: false });

const query = field("search", "Words of a prompt …");
const lora = field("search", "Any LoRA");
const used = make("datalist"); // LoRAs of the cards that were seen
used.id = "loras-used";
lora.setAttribute("list", used.id);
const starred = field("checkbox", "");
const seek = make("form", "seek");
seek.setAttribute("role", "search");
seek.append(labelled("Search the prompts", query, "query"), labelled("With the LoRA", lora, ""), labelled("Starred only", starred, "switch"), used);

const asked = () => ({ query: query.value.trim(), lora: lora.value.trim(), starred: starred.checked || null });
const everything = () => Object.values(asked()).every((value) => !value);

// Cards ------------------------------------------------------------------------------------------------------------------

const note = make("p", "note");
note.setAttribute("role", "status");
const dataset = make("p", "dataset");
const empty = make("div", "empty");
const list = make("div", "sheets");
const end = act("More", "Show older pictures", () => older());
end.classList.add("more");
const tray = make("div", "tray");
tray.setAttribute("role", "status");

let records = []; // all that were told of so far, newest first
let next = null; // the cursor behind them
let turn = 0;
let timer = 0;
let told = ""; // what was asked for when `records` began
const nodes = new Map(); // by id: the cards near the window; the others are made again when they come near
const sheets = []; // each the place of PAGE records, so that its height stays when its cards go
const chosen = new Map(); // records by id, in the order in which they were chosen
let current = null; // the id of the card that Tab leads to

const indexOf = (id) => records.findIndex((record) => record.id === id);

const makeCurrent = (id) => {
  current = id;
  nodes.forEach((node, other) => node.querySelectorAll("button, input").forEach((control) => (control.tabIndex = other === id ? 0 : -1)));
};

const bare = (record) => Object.assign(make("span", "bare", record.prompt || `Seed ${record.seed}`), { translate: !record.prompt });

const mark = (record) => {
  const node = nodes.get(record.id);
  if (!node) return;
  const star = node.querySelector(".star");
  const label = record.starred ? "Take the star away" : "Star";
  star.textContent = record.starred ? "★" : "☆";
  star.title = label;
  star.setAttribute("aria-label", label);
  star.setAttribute("aria-pressed", record.starred);
  node.classList.toggle("chosen", chosen.has(record.id));
  node.querySelector("input").checked = chosen.has(record.id);
};

const cardNode = (record) => {
  const node = make("article", "kept");
  node.dataset.id = record.id;
  const opening = make("button", "open");
  opening.type = "button";
  const picture = record.pictured ? Object.assign(make("img"), { alt: "", decoding: "async" }) : bare(record);
  const time = Object.assign(make("time"), { dateTime: record.at, title: exactly.format(new Date(record.at)) });
  tell(time);
  const when = make("span", "when");
  when.append(make("span", "", record.model), time);
  const said = make("span", "prompt", record.pictured ? record.prompt : `Recipe only, seed ${record.seed}`);
  opening.append(picture, Object.assign(said, { translate: !record.pictured }), when);
  opening.setAttribute("aria-label", `Open: ${record.prompt || "no prompt"}, ${record.model}, ${time.textContent}`);
  opening.addEventListener("click", () => open(record));
  const choose = field("checkbox", "");
  choose.className = "choose";
  choose.setAttribute("aria-label", "Choose, to compare or delete");
  choose.title = "Choose, to compare or delete";
  choose.addEventListener("change", () => {
    if (choose.checked) chosen.set(record.id, record);
    else chosen.delete(record.id);
    mark(record);
    drawTray();
  });
  node.append(opening, choose, button("star", "", "", () => star(record)));
  return node;
};

/** Small pictures for the cards that have none yet; they leave the page with their cards. */
const bring = async (sheet) => {
  const images = [...sheet.querySelectorAll("img:not([src])")];
  if (!images.length) return;
  const id = (image) => image.closest(".kept").dataset.id;
  const { thumbnails = {} } = await ask("thumbnails", { ids: images.map(id) });
  images.filter((image) => image.isConnected && thumbnails[id(image)]).forEach((image) => (image.src = thumbnails[id(image)]));
};

const fill = (sheet) => {
  const from = PAGE * sheets.indexOf(sheet);
  const mine = records.slice(from, from + PAGE);
  const there = [...sheet.children].map((node) => node.dataset.id);
  if (there.length === mine.length && mine.every(({ id }, place) => id === there[place])) return; // the focus may be in it
  mine.filter(({ id }) => !nodes.has(id)).forEach((record) => {
    nodes.set(record.id, cardNode(record));
    mark(record);
  });
  sheet.style.minHeight = "";
  sheet.replaceChildren(...mine.map(({ id }) => nodes.get(id)));
  makeCurrent(nodes.has(current) ? current : mine[0]?.id);
  bring(sheet);
};

const clear = (sheet) => {
  if (!sheet.offsetHeight || sheet.contains(document.activeElement)) return; // hidden with its tab, or in use
  sheet.style.minHeight = `${sheet.offsetHeight}px`;
  [...sheet.children].forEach((node) => nodes.delete(node.dataset.id));
  sheet.replaceChildren();
};

const near = new IntersectionObserver(
  (entries) => entries.forEach(({ target, isIntersecting }) => {
    if (!isIntersecting) clear(target);
    else if (!target.childElementCount) fill(target);
  }),
  { rootMargin: NEAR },
);
const ending = new IntersectionObserver((entries) => entries.at(-1).isIntersecting && older(), { rootMargin: NEAR });

const nothing = () => {
  const [said, offer] = everything()
    ? [
        "Nothing here yet. What you draw on Create and let this studio keep stands here, with its recipe.",
        act("Go to Create", "Go to Create", () => window.loom.turnTo("create")),
      ]
    : [
        `Nothing ${starred.checked ? "starred " : ""}matches: try fewer words, or look at everything.`,
        act("Show everything", "Show everything", () => {
          seek.reset();
          load();
        }),
      ];
  return [make("p", "", said), offer];
};

/** Shows `records` as they are now; what is on the page already stays as it is. */
const lay = () => {
  const needed = Math.ceil(records.length / PAGE);
  sheets.splice(needed).forEach((sheet) => {
    near.unobserve(sheet);
    sheet.remove();
  });
  const known = new Set(records.map(({ id }) => id));
  [...nodes.keys()].filter((id) => !known.has(id)).forEach((id) => nodes.delete(id));
  sheets.filter((sheet) => sheet.childElementCount).forEach(fill);
  while (sheets.length < needed) {
    const sheet = make("div", "sheet");
    sheets.push(sheet);
    list.append(sheet);
    fill(sheet);
    near.observe(sheet);
  }
  empty.replaceChildren(...(records.length || next ? [] : nothing()));
  seek.hidden = everything() && !records.length && !next;
  end.hidden = next === null;
  ending.unobserve(end); // observed anew it tells at once whether it is near already
  ending.observe(end);
};

/** The newest that match, or those behind `cursor`. */
const load = async (cursor = null) => {
  clearTimeout(timer);
  const mine = ++turn;
  const question = asked();
  list.setAttribute("aria-busy", "true");
  const answer = await ask("records", { ...question, cursor });
  if (mine !== turn) return;
  list.setAttribute("aria-busy", "false");
  note.textContent = answer.error ?? "";
  if (answer.error) return;
  dataset.textContent = `This studio: ${answer.said}`;
  const names = new Set([...[...used.options].map(({ value }) => value), ...answer.records.flatMap(({ loras }) => loras)]);
  used.replaceChildren(...[...names].map((name) => new Option("", name)));
  if (cursor !== null) records = [...records, ...answer.records];
  else {
    const asBefore = told === JSON.stringify(question) && JSON.stringify(answer.records) === JSON.stringify(records.slice(0, PAGE));
    if (asBefore && records.length) return; // come back to: where one was is kept
    told = JSON.stringify(question);
    records = answer.records;
    sheets.splice(0).forEach((sheet) => near.unobserve(sheet));
    nodes.clear();
    list.replaceChildren();
  }
  next = answer.next;
  lay();
};

const older = () => {
  if (next !== null && list.getAttribute("aria-busy") !== "true") load(next);
};

// What is done with them -------------------------------------------------------------------------------------------------

const star = async (record) => {
  const answer = await ask("star", { id: record.id, starred: !record.starred });
  note.textContent = answer.error ?? "";
  if (!answer.error) record.starred = answer.starred;
  mark(record);
  return answer;
};

const remove = async (ids) => {
  const answer = await ask("erase", { ids });
  note.textContent = answer.error ?? `${counted(answer.deleted)} deleted.`;
  if (answer.error) return answer;
  const after = records[indexOf(ids.at(-1)) + 1]?.id;
  const gone = new Set(ids);
  records = records.filter(({ id }) => !gone.has(id));
  ids.forEach((id) => chosen.delete(id));
  if (gone.has(current)) current = after;
  lay();
  drawTray();
  return answer;
};

const recall = (id, how) => {
  viewer.tell("Filling the form …");
  trigger("submit", { id, how }); // ends in an error as our value, or on Create
};

const goTo = (index) => {
  if (!records[index]) return;
  const sheet = sheets[Math.floor(index / PAGE)];
  if (!sheet.childElementCount) fill(sheet);
  nodes.get(records[index].id).querySelector(".open").focus();
};

const step = (record, by) => {
  const index = indexOf(record.id) + by;
  if (!records[index]) return;
  open(records[index]);
};

/** To the card that a dialog was about, or to what stands in its place. */
const back = (record) => goTo(indexOf(records.includes(record) ? record.id : current));

const home = element.querySelector(".history");
const viewer = makeViewer(home, { ask, recall, star, remove, step, back });
const comparer = makeComparer(home, ask);
const open = (record) => viewer.open(record, nodes.get(record.id)?.querySelector("img[src]")?.src);

const drawTray = () => {
  const many = chosen.size;
  tray.hidden = !many;
  const compare = act("Compare", "Compare two pictures", () => comparer.open([...chosen.keys()]));
  compare.disabled = many !== 2;
  if (many !== 2) compare.title = "Choose two to compare them";
  const erase = twice("Delete", "Delete those chosen", () => `Delete ${many} for good?`, "Delete", async () => {
    await remove([...chosen.keys()]);
    goTo(indexOf(current));
  });
  const none = act("Choose none", "Choose none", () => {
    const before = [...chosen.values()];
    chosen.clear();
    before.forEach(mark);
    drawTray();
  });
  tray.replaceChildren(make("span", "count", `${many} chosen`), compare, erase.place, none);
};

// Wiring -----------------------------------------------------------------------------------------------------------------

list.addEventListener("focusin", ({ target }) => makeCurrent(target.closest(".kept").dataset.id));
list.addEventListener("keydown", (event) => {
  const card = event.target.closest(".kept");
  const columns = getComputedStyle(card.parentElement).gridTemplateColumns.split(" ").length;
  const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
  if (!by) return;
  event.preventDefault();
  goTo(indexOf(card.dataset.id) + by);
});
seek.addEventListener("submit", (event) => {
  event.preventDefault();
  load();
});
[query, lora].forEach((control) => control.addEventListener("input", () => {
  clearTimeout(timer);
  timer = setTimeout(load, TYPING);
}));
starred.addEventListener("change", () => load());
watch("value", () => viewer.tell(props.value?.error ?? ""));
setInterval(() => list.querySelectorAll("time").forEach(tell), 60_000);

home.prepend(dataset, seek, note, empty, list, end, tray);
drawTray();

// The tab is opened, or left: what was drawn meanwhile is to be seen, and the other tab begins at its top.
let seen = false;
new ResizeObserver(() => {
  if (seen === element.offsetWidth > 0) return;
  seen = !seen;
  if (seen) load();
  else {
    viewer.close(); // hidden but open, it would hold the focus of the whole page
    window.scrollTo({ top: 0 });
  }
}).observe(element);
