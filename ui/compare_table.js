// The comparison's table in the browser: pictures under their headings as they come, each a button that recalls its
// recipe. Runs inside gr.HTML, which hands over `element`, `props`, `trigger` and `watch`, behind dom.js.
const root = element.querySelector(".compare-found");
let shape = ""; // of the table that stands there
let cells = new Map();

const percent = (number) => `${number.toFixed(1)}%`;

const captionOf = ({ label, from_bare: bare, from_blend: blend }, kind) => {
  const box = make("span", "about");
  if (kind === "loras") box.append(make("b", "", label));
  if (bare !== null) box.append(make("span", "", `${percent(bare)} from bare`));
  if (blend !== null) box.append(make("span", "", `${percent(blend)} from the blend`));
  return box;
};

const filled = (cell, kind, ended) => {
  if (cell.state === "waiting") return ended ? make("p", "undrawn", "Not drawn") : make("div", "waiting");
  if (cell.state === "failed") return make("p", "failed", cell.why_not);
  const node = button("cell", undefined, `Use again: ${cell.label}`, () => trigger("select", { recipe: cell.recipe }));
  const image = Object.assign(make("img"), { src: cell.src, alt: cell.label });
  node.append(image, captionOf(cell, kind));
  return node;
};

const heading = (text, scope) => {
  const node = make("th");
  node.scope = scope;
  node.append(make("span", "", text)); // a cell of a table does not keep to a width of its own
  return node;
};

const table = ({ columns, rows, cells: all, kind }) => {
  const node = make("table");
  const titled = rows.labels.some(Boolean);
  const head = make("tr");
  if (titled) head.append(heading(rows.title, "col"));
  head.append(...columns.labels.map((label) => heading(label, "col")));
  node.append(make("caption", "", columns.title), make("thead"), make("tbody"));
  node.tHead.append(head);
  const lines = rows.labels.map((label) => {
    const line = make("tr");
    if (titled) line.append(heading(label, "row"));
    node.tBodies[0].append(line);
    return line;
  });
  cells = new Map();
  all.forEach((cell, number) => {
    const place = make("td");
    lines[cell.row].append(place);
    cells.set(number, { place, state: null });
  });
  const frame = make("div", "frame");
  frame.tabIndex = 0; // scrolled by keys too
  frame.setAttribute("role", "group");
  frame.setAttribute("aria-label", "Comparison");
  frame.append(node);
  root.replaceChildren(frame, make("p", "hint", "A picture clicked brings its recipe back to Create."));
};

const draw = () => {
  const value = props.value;
  root.hidden = !value?.cells;
  if (root.hidden) return;
  const now = JSON.stringify([value.columns, value.rows, value.run]);
  if (now !== shape) table(value);
  shape = now;
  value.cells.forEach((cell, number) => {
    const known = cells.get(number);
    const state = JSON.stringify([cell.state, cell.from_bare, cell.from_blend, value.ended]);
    if (known.state === state) return;
    known.state = state;
    known.place.replaceChildren(filled(cell, value.kind, value.ended));
  });
};

watch("value", draw);
draw();
