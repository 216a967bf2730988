// The overlap in the browser: one sentence, a bar for each block, and what each LoRA weighs. Asked for by a button, then
// kept up to date behind the rows, a moment after the last change. Runs inside gr.HTML, behind dom.js.
const root = element.querySelector(".overlap");
const SOON = 600; // ms after the last change
const TALLEST = 0.2; // an overlap of this and less never fills the picture: small ones shall look small
const WIDE = 8; // of a block, in the picture's units
const HIGH = 24; // of its half

let open = false;
let newest = 0; // the number of the last look asked for, or of the change after it
let busy = false;
let later = null;

const counting = () => (window.loom?.blend?.().rows ?? []).filter((row) => !row.why_not && !row.muted);
const titleOf = (ref) => window.loom.woven(ref)?.title ?? ref;
const signed = (number) => `${number < 0 ? "−" : ""}${Math.abs(number).toFixed(2)}`;
const percent = (share) => `${(100 * share).toPrecision(2)}%`;

const drawn = (tag, attributes) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  Object.entries(attributes).forEach(([name, value]) => node.setAttribute(name, value));
  return node;
};

const bars = (blocks, said) => {
  const most = Math.max(TALLEST, ...blocks.map(({ overlap }) => Math.abs(overlap)));
  const svg = drawn("svg", { viewBox: `0 0 ${WIDE * blocks.length} ${2 * HIGH}`, role: "img", preserveAspectRatio: "none" });
  svg.setAttribute("aria-label", said);
  svg.append(drawn("path", { class: "middle", d: `M0 ${HIGH}H${WIDE * blocks.length}` }));
  blocks.forEach(({ block, overlap }, place) => {
    const height = Math.max(0.5, (Math.abs(overlap) / most) * HIGH);
    const y = overlap < 0 ? HIGH : HIGH - height;
    const bar = drawn("rect", { class: overlap < 0 ? "against" : "same", x: WIDE * place + 1, y, width: WIDE - 2, height });
    const tip = drawn("title", {});
    tip.textContent = `${block}: ${signed(overlap)}`;
    bar.append(tip);
    svg.append(bar);
  });
  return svg;
};

const about = (lora) => {
  const parts = [lora.relative_norm === null ? `norm ${lora.norm.toPrecision(2)}` : `${percent(lora.relative_norm)} of the weights it changes`];
  if (lora.suggested_weight !== null) parts.push(`try ${signed(lora.suggested_weight)}`);
  return `${titleOf(lora.ref)}: ${parts.join(", ")}`;
};

const pairsOf = (pairs) =>
  pairs
    .filter(({ conflict }) => conflict !== null)
    .sort((one, other) => Math.abs(other.conflict) - Math.abs(one.conflict))
    .slice(0, 6)
    .map(({ a, b, conflict }) => `${titleOf(a)} and ${titleOf(b)}: ${signed(conflict)}`);

const listed = (className, texts) => {
  const list = make("ul", className);
  list.append(...texts.map((text) => make("li", "", text)));
  return list;
};

const line = (text, role) => {
  const said = make("p", "said", text);
  said.setAttribute("role", role);
  return said;
};

const closing = (text, label) =>
  button("tool", text, label, () => {
    open = false;
    root.replaceChildren();
    settle();
  });

// A picture stays while a newer one is made, unless a download makes that long.
const follow = ({ under_way, fetching }) => {
  if (fetching || !root.querySelector("svg")) root.replaceChildren(line(under_way, "status"), closing("Cancel", "Look no more how they go together"));
};

const show = (answer) => {
  const hide = closing("Hide", "Hide how they go together");
  if (answer.error) return root.replaceChildren(line(answer.error, "alert"), hide);
  const picture = answer.blocks.length ? [bars(answer.blocks, answer.said), make("p", "hint", "From the first block to the last: up pulls the same way, down against each other.")] : [];
  root.replaceChildren(
    line(answer.said, "status"), ...picture,
    ...(answer.pairs.length > 1 ? [listed("pairs", pairsOf(answer.pairs))] : []),
    listed("loras", answer.loras.map(about)), hide,
  );
};

const look = () => {
  newest += 1;
  busy = true;
  root.classList.add("busy");
  trigger("submit", { asked: newest });
};

watch("value", () => {
  const told = props.value;
  if (told?.asked !== newest) return; // of a blend that was
  if (told.under_way) return follow(told);
  busy = false;
  root.classList.remove("busy");
  show(told);
});

const settle = () => {
  clearTimeout(later);
  if (busy) trigger("stop"); // what is on its way is of another blend
  busy = false;
  newest += 1;
  root.classList.remove("busy");
  if (counting().length < 2) root.replaceChildren();
  else if (open) later = setTimeout(look, SOON);
  else if (!root.querySelector(".more")) {
    const more = make("button", "more", "How do they go together?");
    more.type = "button";
    more.addEventListener("click", () => {
      open = true;
      follow({ under_way: "Looking at their layers …" });
      look();
    });
    root.replaceChildren(more);
  }
};

document.addEventListener("loom:blend", settle);
settle();
