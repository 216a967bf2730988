// What the page's scripts share: the visitor's id and token, words into the prompt and out of it, what a browser keeps.
() => {
  const promptBox = () => document.querySelector("#prompt textarea");

  const write = (text, box = promptBox()) => {
    box.value = text;
    box.dispatchEvent(new Event("input", { bubbles: true })); // Gradio listens for this, not for the value
  };

  const escaped = (word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

  const randomId = () => {
    const bytes = crypto.getRandomValues(new Uint8Array(16));
    return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  };

  const storedId = () => {
    const stored = kept("loom-visitor") ?? randomId();
    keepAs("loom-visitor", stored);
    return stored;
  };

  // Its words name the dataset, if there is one: a choice made before there was one says nothing about it.
  const consentKey = () => `loom-consent ${document.querySelector("#consent")?.textContent}`;
  document.addEventListener("change", (event) => {
    if (!event.target.closest?.("#consent")) return;
    keepAs(consentKey(), event.target.value);
  });

  // Gradio loads the page anew once a lost connection is back; the run was given up then, or is in History.
  const drawing = (now) => {
    try {
      const was = sessionStorage.getItem("loom-drawing");
      sessionStorage[now ? "setItem" : "removeItem"]("loom-drawing", "yes");
      return was !== null;
    } catch {
      return false; // nothing is remembered here
    }
  };
  const progress = () => document.querySelector("#stage [role=progressbar]") && drawing(true);
  new MutationObserver(progress).observe(document.querySelector("#stage"), { childList: true, subtree: true });
  if (drawing(false)) document.querySelector("#stage .said").textContent = inWords("The page was loaded anew while it drew: what was finished and kept is in History, and Generate draws it again.");

  let visitor = null;
  let token = "";
  const fault = faults();

  // The blend rows were here first: Gradio mounts components before it runs this.
  window.loom = {
    ...window.loom,
    ...formMemory(),
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
    /** The random id by which the server knows this browser's uploads again. */
    visitor: () => (visitor ??= storedId()),
    /** What a record may keep: as this browser chose last, where the same was said of it, else the owner's default. */
    consent() {
      const inputs = [...document.querySelectorAll("#consent input")];
      const chosen = kept(consentKey());
      return (inputs.find((input) => input.value === chosen) ?? inputs.find((input) => input.checked))?.value;
    },
    /** The visitor's own Hub token, where they gave one: kept by this page alone, until it is closed. */
    token: () => token,
    bring(given) {
      token = given.trim();
      write(token, document.querySelector("#hub-token input, #hub-token textarea"));
    },
    /** A drawing has ended: its recipe's receipts stand in the rows, its error beside the field it is about. */
    drawn(recipe) {
      drawing(false);
      if (recipe) window.loom.receipts?.(recipe); // draws the rows anew
      fault.show();
    },
    /** The form was filled by a click: Generate is the next step. */
    ready() {
      const generate = document.querySelector("#generate");
      generate?.scrollIntoView({ block: "nearest" });
      generate?.focus({ preventScroll: true });
    },
    /** Turns to a tab: "create" or "loras". */
    turnTo(tab) {
      document.getElementById(`${tab}-tab-button`)?.click();
      window.scrollTo({ top: 0 });
    },
  };

  const copied = async (text) => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // no clipboard where the page came over plain HTTP from another machine: the old way
      const box = Object.assign(document.createElement("textarea"), { value: text });
      document.body.append(box);
      box.select();
      document.execCommand("copy");
      box.remove();
    }
  };

  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-copy]");
    if (!button) return;
    const beside = button.closest("[data-copied]");
    const link = beside.querySelector("a");
    await copied(link ? link.href : beside.querySelector("pre").textContent);
    const said = button.textContent;
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = said), 1500);
  });

  document.addEventListener("click", (event) => {
    const chip = event.target.closest?.("[data-say], [data-prompt]");
    if (!chip) return;
    if (chip.dataset.prompt) write(chip.dataset.prompt);
    else window.loom.say(chip.dataset.say);
  });

  // A picture dropped anywhere opens its recipe, through the file input of the panel that does the same by a click.
  const brings = (event) => event.dataTransfer?.types.includes("Files") && !event.target.closest?.("input[type=file], button");
  document.addEventListener("dragover", (event) => {
    if (!brings(event)) return;
    event.preventDefault();
    document.body.classList.add("dropping");
  });
  for (const over of ["dragleave", "drop"]) document.addEventListener(over, () => document.body.classList.remove("dropping"));
  document.addEventListener("drop", (event) => {
    const input = document.querySelector("#open-recipe input[type=file]");
    if (!brings(event) || !input) return;
    event.preventDefault();
    window.loom.turnTo("create");
    input.files = event.dataTransfer.files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  });

  // On a phone Generate is at hand wherever one is, the picture is not.
  document.addEventListener("click", (event) => {
    const narrow = matchMedia("(max-width: 860px)").matches;
    if (narrow && event.target.closest?.("#generate")) document.querySelector("#picture").scrollIntoView({ block: "start" });
  });

  // What a link on the page leads to may be folded away.
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("#create a[href^='#']");
    if (!link) return;
    event.preventDefault();
    const there = document.querySelector(link.getAttribute("href"));
    there?.dispatchEvent(new CustomEvent("loom:unfold"));
    there?.scrollIntoView({ block: "start" });
  });

  completion(write);
  keys(write);
}
