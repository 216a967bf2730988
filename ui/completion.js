// “<” in the prompt offers the LoRAs of the model: typed on, chosen by arrows and Enter, it becomes a tag with its weight.
const completion = (write) => {
  const MOST = 6;
  const BEGUN = /<(?:l|lo|lor|lora|lora:)?([^<>:]{0,40})$/i;
  const list = Object.assign(document.createElement("div"), { id: "completion", className: "completion" });
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "LoRAs to write into the prompt");
  let at = -1;

  const box = () => document.querySelector("#prompt textarea");
  const options = () => [...list.children];
  const close = () => {
    list.remove();
    box()?.removeAttribute("aria-activedescendant");
  };
  const mark = (place) => {
    const all = options();
    at = (place + all.length) % all.length;
    all.forEach((option, index) => option.setAttribute("aria-selected", index === at));
    box().setAttribute("aria-activedescendant", all[at].id);
  };
  const put = ({ ref, weight }) => {
    const { value, selectionStart: caret } = box();
    const before = value.slice(0, caret).replace(BEGUN, `<lora:${ref}:${weight}>`);
    write(before + value.slice(caret));
    box().setSelectionRange(before.length, before.length);
    close();
  };

  document.addEventListener("input", ({ target }) => {
    if (target !== box()) return;
    const found = BEGUN.exec(target.value.slice(0, target.selectionStart));
    const word = found?.[1].trim().toLowerCase() ?? "";
    const fitting = (card) => `${card.title} ${card.ref}`.toLowerCase().includes(word);
    const cards = found ? (window.loom.cards?.() ?? []).filter(fitting).slice(0, MOST) : [];
    if (!cards.length) return close();
    list.replaceChildren(...cards.map((card, place) => {
      const option = Object.assign(document.createElement("div"), { id: `completion-${place}`, textContent: card.title });
      option.setAttribute("role", "option");
      option.addEventListener("pointerdown", (event) => {
        event.preventDefault(); // the prompt keeps the focus
        put(card);
      });
      option.choose = () => put(card);
      return option;
    }));
    target.after(list);
    target.setAttribute("aria-controls", "completion");
    mark(0);
  });
  document.addEventListener("focusout", ({ target }) => target === box() && close());
  document.addEventListener("keydown", (event) => {
    if (!list.isConnected || event.target !== box() || event.ctrlKey || event.metaKey) return;
    const does = {
      ArrowDown: () => mark(at + 1), ArrowUp: () => mark(at - 1), Escape: close,
      Enter: () => options()[at].choose(), Tab: () => options()[at].choose(),
    }[event.key];
    if (!does) return;
    event.preventDefault();
    event.stopPropagation();
    does();
  }, true);
};
