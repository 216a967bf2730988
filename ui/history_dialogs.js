// The History tab's dialogs: one picture large with its recipe, and two over each other behind a slider. Both are modal:
// the browser keeps the focus inside, closes them on Esc, and gives the focus back to the card.
const FILES = { PNG: "png", JPEG: "jpg", WebP: "webp" };
const WAYS = {
  everything: ["Everything", "Fill the form with all that the recipe says"],
  seed: ["Seed", "Take over the seed alone"],
  remix: ["Remix", "Fill the form with everything but the seed"],
};

const act = (text, label, onClick) => button("act", text, label, onClick);

/** A button that asks once, in its own place, before it does what cannot be undone. */
const twice = (text, label, question, sure, onSure) => {
  const place = make("span", "twice");
  const first = act(text, label, () => {
    const keep = act("Keep", "Keep", back);
    place.replaceChildren(make("span", "", question()), act(sure, sure, onSure), keep);
    place.lastChild.previousSibling.classList.add("primary");
    keep.focus();
  });
  const settle = () => place.replaceChildren(first);
  const back = () => {
    settle();
    first.focus();
  };
  settle();
  return { place, settle };
};

const dialogIn = (home, className, label) => {
  const node = make("dialog", className);
  node.setAttribute("aria-label", label);
  const close = button("tool close", "Close", "Close", () => node.close());
  node.addEventListener("click", ({ target }) => target === node && node.close()); // beside it
  home.append(node);
  return { node, close };
};

const group = (text, ...nodes) => {
  const row = make("p", "group");
  row.append(make("span", "hint", text), ...nodes);
  return row;
};

const large = (address, className) => {
  if (!address) return make("p", `bare ${className}`, "Only the recipe of this picture was kept.");
  return Object.assign(make("img", className), { src: address, alt: "", translate: false });
};

/** `does` has `ask`, and what the dialog's buttons come to: `recall`, `star`, `remove`,
 *  `step` to another card and `back` to this one. */
const makeViewer = (home, does) => {
  const { node, close } = dialogIn(home, "viewer", "A picture and its recipe");
  const frame = make("div", "frame");
  const side = make("div", "side");
  const recipe = make("div", "its-recipe");
  const said = make("p", "said");
  said.setAttribute("role", "status");
  let record = null;

  const save = async (ending) => {
    said.textContent = "";
    const answer = await does.ask("save", { id: record.id, ending });
    if (answer.error) said.textContent = answer.error;
    else Object.assign(make("a"), { href: answer.address, download: answer.name }).click();
  };
  const uses = Object.entries(WAYS).map(([how, [text, label]]) =>
    act(text, label, () => does.recall(record.id, how)),
  );
  const files = group("Save as", ...Object.entries(FILES).map(([text, ending]) => act(text, `Save as ${text}, its recipe inside`, () => save(ending))));
  const star = act("", "", async () => {
    said.textContent = (await does.star(record)).error ?? "";
    mark();
  });
  const erase = twice("Delete", "Delete this picture", () => "Delete it for good?", "Delete it", async () => {
    const { error } = await does.remove([record.id]);
    if (error) said.textContent = error;
    else node.close();
  });
  const mark = () => {
    star.textContent = record.starred ? "★ Starred" : "☆ Star";
    star.setAttribute("aria-pressed", record.starred);
  };
  const end = make("p", "group");
  end.append(star, erase.place);
  side.append(group("Use again", ...uses), files, end, said, recipe);
  node.append(close, frame, side);
  node.addEventListener("close", () => does.back(record));
  node.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) does.step(record, step);
  });

  return {
    close: () => node.close(),
    tell: (text) => (said.textContent = text),
    /** `early` is the card's own small picture, until the large one is here. */
    async open(opened, early) {
      record = opened;
      mark();
      erase.settle();
      said.textContent = "";
      files.hidden = !record.pictured;
      recipe.replaceChildren();
      frame.replaceChildren(...(early ? [large(early, "early")] : []));
      if (!node.open) node.showModal();
      const answer = await does.ask("picture", { id: opened.id });
      if (record !== opened) return;
      if (answer.error) said.textContent = answer.error;
      else {
        frame.replaceChildren(large(answer.address, ""));
        frame.firstChild.alt = opened.prompt;
        recipe.innerHTML = answer.recipe; // escaped by the server, which wrote it
      }
    },
  };
};

const makeComparer = (home, ask) => {
  const { node, close } = dialogIn(home, "comparer", "Two pictures compared");
  const over = make("div", "over");
  const slide = Object.assign(make("input"), { type: "range", min: 0, max: 100, step: 0.5 });
  slide.setAttribute("aria-label", "How much of each is seen");
  const facts = make("table", "differences");
  const said = make("p", "said");
  said.setAttribute("role", "status");
  const move = () => over.style.setProperty("--at", `${slide.value}%`);
  slide.addEventListener("input", move);
  node.append(close, over, said, facts);

  const row = (kind, ...texts) => {
    const line = make("tr");
    line.append(...texts.map((text, place) => make(place ? kind : "th", "", text)));
    if (["Prompt", "Without"].includes(texts[0])) [...line.cells].slice(1).forEach((cell) => (cell.translate = false));
    return line;
  };

  return {
    async open(ids) {
      over.replaceChildren();
      facts.replaceChildren();
      said.textContent = "Fetching them …";
      node.showModal();
      const answer = await ask("compare", { ids });
      said.textContent = answer.error ?? (answer.differences.length ? "" : "Their recipes are the same.");
      if (answer.error) return;
      over.style.setProperty("--ratio", answer.ratio);
      over.append(large(answer.pictures[0], "left"), large(answer.pictures[1], "right"), make("i"), slide);
      slide.value = 50;
      move();
      slide.focus();
      if (answer.differences.length) facts.append(row("th", "", "Left", "Right"), ...answer.differences.map((fact) => row("td", ...fact)));
    },
  };
};
