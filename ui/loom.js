// The page's own keys and words: Ctrl/Cmd+Enter generates, a clicked word or example goes into the prompt.
() => {
  const promptBox = () => document.querySelector("#prompt textarea");

  const write = (text) => {
    const box = promptBox();
    box.value = text;
    box.dispatchEvent(new Event("input", { bubbles: true })); // Gradio listens for this, not for the value
  };

  const escaped = (word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

  window.loom = {
    /** Appends a word to the prompt, after `joint` if there is anything to join. */
    say(word, joint = " ") {
      const before = promptBox().value.trimEnd();
      write(before ? before + joint + word : word);
    },
    /** Takes a word out of the prompt again, once, with the comma that came with it. */
    unsay(word) {
      const found = new RegExp(`(^|,\\s*|\\s+)${escaped(word)}(?![\\p{L}\\p{N}])`, "iu");
      write(promptBox().value.replace(found, "").replace(/^[\s,]+/, ""));
    },
  };

  document.addEventListener("click", (event) => {
    const chip = event.target.closest?.("[data-say], [data-prompt]");
    if (!chip) return;
    if (chip.dataset.prompt) write(chip.dataset.prompt);
    else window.loom.say(chip.dataset.say);
  });

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    document.querySelector("#generate:not(.hidden):not(:disabled)")?.click();
  });
}
