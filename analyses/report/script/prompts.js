// The prompts table: one arm's answers against the base model's, filtered, searched and sorted.

const PAGE = 50;
// What `spillover predict` says of each prompt before training.
const FORECASTS = {
  forecast: "forecast of the loss (nats per nat of the target)",
  flip_90: "forecast: probability to lose its refusal at 90% forgetting",
};

/** Draws the table of `data` into `host`. */
function drawPrompts(data, host, prefix) {
  if (!data.arms.length && !data.forecasts) {
    return host.append(make("p", {}, "No arm has finished yet."));
  }
  // Of two runs, the first arm of each; of one run, one arm and on request another.
  const ofOther = data.arms.find((arm) => arm.run !== data.arms[0].run);
  const state = { arm: data.arms.length ? data.arms[0].name : "", other: ofOther ? ofOther.name : "",
    search: "", sort: null, down: false, shown: PAGE };
  const filters = { domain: "", split: "", label: "", before: "", after: "" };
  const every = data.prompt.map((_, i) => i);

  /** The columns, each with its title and how it reads row `i`. */
  const columns = () => {
    const after = data.after[state.arm];
    const other = data.after[state.other];
    const found = [
      { name: "prompt", title: "prompt", read: (i) => data.prompt[i] },
      { name: "domain", title: "domain", read: (i) => decoded(data.domain, i) },
      { name: "label", title: "kind", read: (i) => decoded(data.label, i) },
      { name: "split", title: "split", read: (i) => decoded(data.split, i) },
      { name: "before", title: "class before", read: (i) => decoded(data.before.class, i) },
      { name: "log_odds_before", title: "log-odds before (nats)", number: true,
        read: (i) => data.before.log_odds[i] },
    ];
    if (after) {
      found.push(
        { name: "after", title: "class after", read: (i) => decoded(after.class, i) },
        { name: "log_odds_after", title: "log-odds after (nats)", number: true,
          read: (i) => after.log_odds[i] },
      );
    }
    if (other) {
      found.push(
        { name: "other", title: "class after, second model", read: (i) => decoded(other.class, i) },
        { name: "log_odds_other", title: "log-odds after, second model (nats)", number: true,
          read: (i) => other.log_odds[i] },
      );
    }
    for (const [name, values] of Object.entries(data.forecasts ?? {})) {
      found.push({ name, title: FORECASTS[name], number: true, read: (i) => values[i] });
    }
    if (after?.completion) {
      found.push({ name: "completion", title: "completion after", read: (i) => after.completion[i] });
    }
    return found;
  };

  const chosen = () => {
    const all = columns();
    const needle = state.search.toLowerCase();
    const rows = every.filter((i) => {
      const fits = Object.entries(filters).every(([name, value]) => {
        return !value || all.find((column) => column.name === name)?.read(i) === value;
      });
      return fits && (!needle || all.some((column) => (
        !column.number && String(column.read(i) ?? "").toLowerCase().includes(needle)
      )));
    });
    const by = all.find((column) => column.name === state.sort);
    if (!by) return rows;
    const order = (a, b) => {
      const [x, y] = [by.read(a), by.read(b)];
      if (x === y) return a - b;
      if (x === null) return 1;  // rows without a number come last in either order
      if (y === null) return -1;
      const up = by.number ? x - y : x < y ? -1 : 1;
      return state.down ? -up : up;
    };
    return rows.sort(order);
  };

  const body = make("tbody");
  const head = make("tr");
  const count = make("output", { className: "said" });
  const more = make("button", { type: "button" }, "Show more");

  const draw = () => {
    const all = columns();
    const rows = chosen();
    head.replaceChildren(...all.map((column) => headerOf(column)));
    body.replaceChildren(...rows.slice(0, state.shown).map((i) => (
      make("tr", {}, ...all.map((column) => {
        const value = column.read(i);
        const text = column.number ? written(value, 2) : (value ?? "–");
        return make("td", { className: column.number ? "number" : column.name }, text);
      }))
    )));
    const shown = Math.min(state.shown, rows.length);
    count.textContent = `${shown} of ${rows.length} prompts shown (${every.length} scored)`;
    more.hidden = shown === rows.length;
  };
  const again = () => {
    state.shown = PAGE;
    draw();
  };

  const headerOf = (column) => {
    const active = state.sort === column.name;
    const sign = active ? (state.down ? " ▾" : " ▴") : "";
    const button = make("button", { type: "button" }, column.title + sign);
    button.addEventListener("click", () => {
      state.down = active ? !state.down : false;
      state.sort = column.name;
      again();
      head.querySelector(`[data-column="${column.name}"] button`).focus();
    });
    const order = active ? (state.down ? "descending" : "ascending") : "none";
    const cell = make("th", { scope: "col", "aria-sort": order }, button);
    cell.dataset.column = column.name;
    return cell;
  };

  const texts = (column) => [...new Set(column.names)].sort();
  const all = (names) => [["", "all"], ...names.map((name) => [name, name])];
  const classes = texts({ names: [data.before, ...Object.values(data.after)].flatMap((one) => (
    one.class.names
  )) });
  const lists = { domain: texts(data.domain), label: texts(data.label), split: texts(data.split),
    before: classes, after: classes };
  const titles = { domain: "Domain", label: "Kind", split: "Split", before: "Before", after: "After" };
  const arms = choice("Model after", data.arms.map((arm) => [arm.name, arm.label]), (name) => {
    state.arm = name;
    again();
  });
  const others = choice("Second model", [["", "none"], ...data.arms.map((arm) => (
    [arm.name, arm.label]
  ))], (name) => {
    state.other = name;
    again();
  });
  others.list.value = state.other;
  const fields = Object.entries(lists).map(([name, names]) => (
    choice(titles[name], all(names), (value) => {
      filters[name] = value;
      again();
    }).field
  ));
  const search = make("input", { type: "search" });
  search.addEventListener("input", () => {
    state.search = search.value;
    again();
  });
  more.addEventListener("click", () => {
    state.shown += 4 * PAGE;
    draw();
  });
  const csv = () => {
    const found = columns();
    return csvOf([found.map((one) => one.name), ...chosen().map((i) => found.map((one) => one.read(i)))]);
  };
  host.append(
    make("div", { className: "controls" }, arms.field, others.field, ...fields,
      labelledField("Search", search)),
    count,
    make("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": "Prompts" },
      make("table", { className: "prompts" }, make("thead", {}, head), body)),
    more,
    downloads("Prompts", { CSV: () => offerText(csv(), `${prefix}prompts.csv`, "text/csv") }),
  );
  draw();
}
