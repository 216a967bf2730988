// The rest of a blend row's controls, behind “More”: the text encoders' weight, the steps, the blocks of the model; and
// under all rows the total strength, and whether LoRAs may be used in part. In one scope with blend_rows.js, which draws them.
const opened = new Set(); // refs of rows whose “More” is open: drawing anew must not close it
let total = 1; // what total strength was last, while it is off

const field = (label, name, input, tell) => {
  const node = make("label", "field");
  input.setAttribute("aria-label", name);
  input.addEventListener("input", tell);
  node.append(make("span", "hint", label), input);
  return node;
};

const numberField = (label, name, value, bounds, tell) => {
  const input = make("input");
  Object.assign(input, { type: "number", value: value ?? "", ...bounds });
  return field(label, name, input, () => {
    if (!input.validity.badInput) tell(input.value === "" ? null : Number(input.value)); // half-typed: the last stands
  });
};

const textField = (label, name, value, placeholder, tell) => {
  const input = make("input");
  Object.assign(input, { type: "text", value, placeholder, maxLength: 200, spellcheck: false, autocomplete: "off" });
  return field(label, name, input, () => tell(input.value));
};

// What a row says of blocks, for the family of the model chosen now: another family has other blocks.
const blocksOf = (row) => ({ groups: {}, single: "", ...row.blocks?.[props.value.family] });

const summaryOf = (row) => {
  const { groups, single } = blocksOf(row);
  const named = Object.entries(groups).filter(([, number]) => number !== null).map(([name, number]) => `${name}: ${number}`);
  const said = [
    (row.text_encoder ?? null) !== null && `text ${row.text_encoder}`,
    ((row.start ?? 0) !== 0 || (row.end ?? 1) !== 1) && `steps ${row.start ?? 0} to ${row.end ?? 1}`,
    [...named, single.trim()].filter(Boolean).join(", "),
  ];
  return ["More", ...said].filter(Boolean).join(" · ");
};

const moreOf = (row) => {
  const node = make("details", "controls");
  const summary = make("summary", "", summaryOf(row));
  const { title } = row;
  const find = () => rows().find((other) => other.ref === row.ref) ?? row;
  const set = (edit) => {
    change(row.ref, edit);
    summary.textContent = summaryOf(find());
  };
  const setBlocks = (edit) => {
    const { family } = props.value;
    set((old) => ({ blocks: { ...old.blocks, [family]: { ...blocksOf(old), ...edit(blocksOf(old)) } } }));
  };
  const fill = () => {
    if (node.childElementCount > 1) return;
    const now = find();
    const { groups, single } = blocksOf(now);
    const share = { min: 0, max: 1, step: 0.05 };
    const words = { min: -5, max: 5, step: 0.05, placeholder: "as weight" };
    const first = make("div", "fields");
    first.append(
      numberField("Text encoder", `Text encoder weight of ${title}`, now.text_encoder, words, (value) => set(() => ({ text_encoder: value }))),
      numberField("Start", `Start of ${title}, a share of the steps`, now.start, { ...share, placeholder: 0 }, (value) => set(() => ({ start: value }))),
      numberField("End", `End of ${title}, a share of the steps`, now.end, { ...share, placeholder: 1 }, (value) => set(() => ({ end: value }))),
    );
    const blocks = make("div", "fields");
    const times = { min: -5, max: 5, step: 0.05, placeholder: 1 };
    blocks.append(
      ...props.value.groups.map((group) =>
        numberField(`Blocks ${group}`, `Blocks ${group} of ${title}`, groups[group], times, (value) =>
          setBlocks((old) => ({ groups: { ...old.groups, [group]: value } })),
        ),
      ),
    );
    const line = textField("Single blocks", `Single blocks of ${title}`, single, props.value.single, (text) => setBlocks(() => ({ single: text })));
    line.classList.add("wide");
    ["text_encoder", "start", "end"].forEach((part, place) => (first.children[place].lastElementChild.dataset.part = part));
    line.lastElementChild.dataset.part = "blocks";
    node.append(first, blocks, line, make("p", "hint", "Start and end are shares of the steps, from 0 to 1. A block's number multiplies the weight there."));
  };
  node.append(summary);
  node.addEventListener("toggle", () => {
    opened[node.open ? "add" : "delete"](row.ref);
    if (node.open) fill();
  });
  if (opened.has(row.ref)) {
    fill();
    node.open = true;
  }
  return node;
};

const TOGETHER = "together"; // among the page's folds
const together = () => {
  const node = make("details", "together");
  node.append(make("summary", "", "All together"), totalLine(), partialLine());
  node.open = foldsLeft()[TOGETHER] ?? false;
  node.addEventListener("toggle", () => keepFold(TOGETHER, node.open));
  return node;
};

const totalLine = () => {
  const line = make("label", "total");
  line.dataset.field = "total_strength";
  const check = make("input");
  const number = make("input");
  const now = props.value.total_strength ?? null;
  total = now ?? total;
  Object.assign(check, { type: "checkbox", checked: now !== null });
  Object.assign(number, { type: "number", min: 0.05, max: 10, step: 0.05, value: total, disabled: now === null });
  number.setAttribute("aria-label", "Total strength: what all weights sum to");
  line.title = "Scales the weights of all LoRAs that are not muted, so that together they sum to this";
  const set = (value) => {
    props.value = { ...props.value, total_strength: value };
    tell();
  };
  check.addEventListener("change", () => {
    number.disabled = !check.checked;
    set(check.checked ? total : null);
  });
  number.addEventListener("input", () => {
    if (number.value === "" || number.validity.badInput) return;
    total = Number(number.value);
    set(total);
  });
  line.append(check, make("span", "", "Keep total strength"), number);
  return line;
};

// Named as the error has it that sends people here.
const partialLine = () => {
  const line = make("label", "total");
  const check = make("input");
  Object.assign(check, { type: "checkbox", checked: Boolean(props.value.allow_partial) });
  line.title = "Uses a LoRA all the same of which less than 90% fits this model; the recipe tells what was left out";
  check.addEventListener("change", () => {
    props.value = { ...props.value, allow_partial: check.checked };
    tell();
  });
  line.append(check, make("span", "", "Allow partial LoRAs"));
  return line;
};
