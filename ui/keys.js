// The keys that hold everywhere: Ctrl/Cmd+Enter generates, Esc cancels, arrows walk through pictures and cards, and in the
// prompt Ctrl/Cmd+Up and Down change the weight of the LoRA tag under the cursor.
const keys = (write) => {
  const seen = (node) => node?.offsetParent !== null && node?.getClientRects().length > 0;
  const STEP = 0.05;
  const TAG = /<lora:([^<>]*):(-?\d*\.?\d+)([^<>:]*)>/g;

  const generate = () => {
    const button = document.querySelector("#generate:not(.hidden):not(:disabled)");
    if (!button) return;
    if (!seen(button)) window.loom.turnTo("create");
    button.click();
  };

  const cancel = () => [...document.querySelectorAll("#cancel, #compare-cancel, #save-cancel")].find(seen)?.click();

  // Galleries: where a card has the focus, its neighbour gets it; elsewhere Left and Right turn the pictures drawn last.
  const CARDS = ".blends .example, .shelf .card, .cards .pick"; // History has its own
  const nearest = (from, others, key) => {
    const at = from.getBoundingClientRect();
    const sideways = key === "ArrowLeft" || key === "ArrowRight";
    const sign = key === "ArrowLeft" || key === "ArrowUp" ? -1 : 1;
    const way = (node) => {
      const box = node.getBoundingClientRect();
      const along = sign * (sideways ? box.left - at.left : box.top - at.top);
      const across = Math.abs(sideways ? box.top - at.top : box.left - at.left);
      return along > 4 ? along + 4 * across : Infinity;
    };
    return others.map((node) => [way(node), node]).filter(([far]) => far < Infinity).sort(([a], [b]) => a - b)[0]?.[1];
  };
  const walk = ({ target, key }) => {
    if (!target.matches?.(CARDS)) return false;
    const others = [...document.querySelectorAll(CARDS)].filter((card) => card !== target && seen(card));
    const next = nearest(target, others, key);
    next?.focus();
    return Boolean(next);
  };
  const turn = (key) => {
    const thumbs = [...document.querySelectorAll("#gallery .thumbnails button")];
    const now = thumbs.findIndex((thumb) => thumb.classList.contains("selected"));
    const next = thumbs[now + (key === "ArrowLeft" ? -1 : 1)];
    if (now < 0 || !next || !seen(next)) return false;
    next.click();
    return true;
  };

  const reweighed = (box, key) => {
    for (const tag of box.value.matchAll(TAG)) {
      const end = tag.index + tag[0].length;
      if (box.selectionStart < tag.index || box.selectionEnd > end) continue;
      const weight = Math.min(5, Math.max(-5, Number(tag[2]) + (key === "ArrowUp" ? STEP : -STEP)));
      const text = `<lora:${tag[1]}:${Number(weight.toFixed(2))}${tag[3]}>`;
      write(box.value.slice(0, tag.index) + text + box.value.slice(end), box);
      box.setSelectionRange(tag.index, tag.index + text.length);
      return true;
    }
    return false;
  };

  // Tab leaves a dropdown: Gradio, to which each key is a letter, would open its list again, and where that scrolls it
  // takes the focus and loses it.
  window.addEventListener("keydown", (event) => {
    if (!["Tab", "Shift", "Control", "Alt", "Meta"].includes(event.key) || !event.target.matches?.("[role=combobox]")) return;
    document.querySelectorAll(".option-list").forEach((list) => (list.tabIndex = -1));
    event.stopPropagation();
  }, true);

  document.addEventListener("keydown", (event) => {
    const control = event.ctrlKey || event.metaKey;
    const { key, target } = event;
    if (event.defaultPrevented || event.isComposing) return;
    if (key === "Enter" && control) {
      event.preventDefault();
      return generate();
    }
    if (key === "Escape" && !document.querySelector("dialog[open]")) return cancel();
    if (!key.startsWith("Arrow")) return;
    const typing = target.matches?.("input, textarea, select, [role=tab], [role=option], [contenteditable=true]");
    if (control && target.matches?.("#prompt textarea") && /Up|Down/.test(key)) {
      if (reweighed(target, key)) event.preventDefault();
      return;
    }
    if (control || event.altKey || event.shiftKey || typing) return;
    const inGallery = target.closest?.("#gallery .preview"); // Gradio's own keys
    if (walk(event) || (!inGallery && /Left|Right/.test(key) && seen(document.querySelector("#gallery")) && turn(key))) event.preventDefault();
  });
};
