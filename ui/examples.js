// The example blends in the browser: cards over the empty loom, each a click from a filled form. Runs inside gr.HTML, which
// hands over `element`, `props`, `trigger` and `watch`, behind dom.js.
const root = element.querySelector(".blends");
const shower = () => document.querySelector("#show-blends button");
let open = null; // as the visitor asked; null: as long as there is no picture

const turn = (shown) => {
  open = shown;
  root.classList.toggle("shown", shown === true);
  root.classList.toggle("hidden", shown === false);
  shower()?.setAttribute("aria-expanded", shown === true);
};

const cardOf = ({ name, title, picture: look, loras }) => {
  const card = make("button", "example");
  card.type = "button";
  card.dataset.name = name;
  card.append(picture({ title, picture: look, nsfw: false }), make("span", "title", title), make("span", "hint", loras));
  card.addEventListener("click", () => {
    turn(null);
    trigger("submit", { name });
  });
  return card;
};

const draw = () => {
  const { said = "", cards = [] } = props.value ?? {};
  const shelf = make("div", "examples-shelf");
  shelf.setAttribute("role", "group");
  shelf.setAttribute("aria-label", "Example blends");
  shelf.append(...cards.map(cardOf));
  root.replaceChildren(make("p", "", said), shelf);
  shower()?.classList.toggle("none", !cards.length);
};

document.addEventListener("click", (event) => {
  if (event.target.closest?.("#generate") && open) turn(null);
  if (!event.target.closest?.("#show-blends button")) return;
  turn(open !== true);
  if (open) root.scrollIntoView({ block: "nearest" });
});
root.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || open !== true) return;
  event.preventDefault();
  turn(null);
  shower()?.focus();
});
watch("value", draw);
draw();
