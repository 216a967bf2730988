// A fold in the browser: its head opens and closes what stands behind it, and the browser remembers which. Runs inside
// gr.HTML, behind dom.js.
const head = element.querySelector(".fold");
const block = element.closest(".block.folds");

const turn = (open) => {
  head.setAttribute("aria-expanded", open);
  block.classList.toggle("open", open);
};

const narrow = matchMedia("(max-width: 860px)").matches;
turn(foldsLeft()[block.id] ?? (head.dataset.opens === "wide" && !narrow));
head.addEventListener("click", () => {
  const open = head.getAttribute("aria-expanded") !== "true";
  turn(open);
  keepFold(block.id, open);
});
block.addEventListener("loom:unfold", () => turn(true)); // what must be seen now is not remembered
watch("value", () => turn(true));
