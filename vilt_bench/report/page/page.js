// @ts-check
// The page's own script: it sorts, filters, draws and compares what the page holds, and loads nothing.
// What its reader chose stands in the address's fragment, so that a link shows what its sender saw.
"use strict";
(() => {
  /** @typedef {number | string | null | (number | null)[]} Value  a number, a text, or value, low and high */
  /** @typedef {{key: string, title: string, kind: string, shown: boolean, more: boolean, number: boolean,
   *   texts: string[], values: Value[], at: number[]}} Column  texts and values once, and by case which it has */
  /** @typedef {[number, number | null, number | null, number, number]} Estimate  ms: value, low, high; units, samples */
  /** @typedef {[number, number, Estimate | null, string[]]} Row  stage; component, whole or stage; latency; texts */
  /** @typedef {[number, number, number | null, boolean | null, number | null, number | null, number | null, number[][]]} Told
   *   began, passes, first call, settled, CPU share, switches, load, passes in ms by block */
  /** @typedef {{id: string, name: string, rows: Row[], remarks: number[], lines: number[], origin: number,
   *   at: number, group: number, trials: Told[], raw: Record<string, number>, record: string}} Case */
  /** @typedef {{name: string, title: string, component: string, fill: string, hatch: string, line: string, ink: string}} Stage */
  /** @typedef {{name: string, title: string, tokens: number[], cases: number[][], towers: number[]}} Wait */
  /** @typedef {{columns: Column[], inner: string[], stages: Stage[], cases: Case[], shared: any[], waits: Wait[], plots: Plot[]}} Data */
  /** @typedef {{name: string, points: [number, number, number | null, number | null, string][], levels: [number, number, number, string][]}} View */
  /** @typedef {{key: string, title: string, kind: "history" | "ratios", x: string, y: string, views: View[], names: string[], limit: number | null}} Plot */
  /** @typedef {(value: number) => number} Scale */

  const [COMPONENT, WHOLE, STAGE] = [0, 1, 2];
  const MOST_ROWS = 1000, MOST_BARS = 30, MOST_BARS_OF_A_SHEET = 18, MOST_LINES = 8, WIDE = 560;
  const data = /** @type {Data} */ (JSON.parse(find("data").textContent || ""));
  const [cases, columns] = [data.cases, data.columns];
  const byId = new Map(cases.map((each, index) => [each.id, index]));
  const listed = document.querySelector("#cases table"), body = listed?.querySelector("tbody") ?? document.createElement("tbody");
  const rows = /** @type {HTMLTableRowElement[]} */ ([...body.rows]);
  const heading = /** @type {HTMLTableRowElement} */ (listed?.querySelector("thead tr") ?? document.createElement("tr"));
  const texts = cases.map((_, at) => columns.map((each) => each.texts[each.at[at]]));
  const values = cases.map((_, at) => columns.map((each) => each.values[each.at[at]]));
  const said = cases.map((each, at) => [each.name, ...texts[at]].join(" ").toLowerCase());
  const facets = columns.map((_, at) => at).filter((at) => columns[at].kind === "axis" && distinct(at).length > 1 && distinct(at).length <= 40);

  // Elements

  /** @param {string} id */
  function find(id) {
    const found = document.getElementById(id);
    if (!found) throw new Error(`the page lacks ${id}`);
    return found;
  }

  /** Returns a new element. @param {string} name @param {Record<string, any>} [given] @param {(Node | string)[]} inner */
  function h(name, given = {}, ...inner) {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(given)) {
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else if (key in made && typeof value !== "string") Object.assign(made, { [key]: value });
      else made.setAttribute(key, value);
    }
    made.append(...inner);
    return made;
  }

  /** Returns a new element of a picture. @param {string} name @param {Record<string, string | number>} given @param {(Node | string)[]} inner */
  function s(name, given = {}, ...inner) {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(given)) made.setAttribute(key, typeof value === "number" ? String(+value.toFixed(2)) : value);
    made.append(...inner);
    return made;
  }

  /** Returns a table. @param {string} label @param {string[]} head @param {{cells: string[], look?: string, apart?: boolean}[]} lines */
  function table(label, head, lines) {
    const row = (/** @type {typeof lines[0]} */ line) => h("tr", line.apart ? { class: "apart" } : {},
      ...line.cells.map((text, at) => at ? h("td", {}, text) : h("th", { scope: "row", class: line.look || "" }, text)));
    return h("div", { class: "table", role: "group", tabindex: "0", "aria-label": label }, h("table", {},
      h("thead", {}, h("tr", {}, ...head.map((text) => h("th", { scope: "col" }, text)))), h("tbody", {}, ...lines.map(row))));
  }

  /** Returns a choice. @param {string} label @param {string} key @param {[string, string][]} options @param {string} usual */
  function choice(label, key, options, usual) {
    const now = state().get(key) ?? usual;
    const select = /** @type {HTMLSelectElement} */ (h("select", { onchange: () => put({ [key]: select.value === usual ? null : select.value }) },
      ...options.map(([value, text]) => h("option", { value, selected: value === now }, text))));
    select.name = key;
    return h("label", {}, label, select);
  }

  /** Returns the beginning of a name that no sentence has room for; all of it stands in the record. @param {string} name */
  const brief = (name) => name.length > 90 ? `${name.slice(0, 89)}…` : name;

  /** Returns a name that may be broken where its parts end. @param {string} name */
  const breakable = (name) => name.slice(0, 400).split(/(?<=[/_])/).flatMap((part) => [part, h("wbr")]);

  /** Returns a list of terms. @param {[string, string | null | undefined][]} pairs */
  function terms(pairs) {
    return h("dl", { class: "origin" }, ...pairs.filter(([, text]) => text).map(([term, text]) => h("div", {}, h("dt", {}, term), h("dd", {}, text || ""))));
  }

  // State

  const state = () => new URLSearchParams(location.hash.slice(1));

  /** Change what is chosen; nothing for what is usual. @param {Record<string, string | string[] | null>} changes */
  function put(changes) {
    const now = state();
    for (const [key, value] of Object.entries(changes)) {
      now.delete(key);
      for (const each of [value].flat()) if (each) now.append(key, each);
    }
    history.replaceState(null, "", `#${now}`);
    update();
  }

  // Numbers

  /** Returns the number with about four digits. @param {number | null} value */
  function digits(value) {
    if (value === null || !Number.isFinite(value)) return "–";
    const size = Math.abs(value), places = size === 0 ? 0 : size < 0.1 ? 4 : size < 1 ? 3 : size < 100 ? 2 : 1;
    return value.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
  }

  /** Returns what is sorted by and drawn. @param {Value} value @returns {number | null} */
  const number = (value) => Array.isArray(value) ? value[0] : typeof value === "number" ? value : null;

  /** Returns the texts of a column, each once. @param {number} at */
  function distinct(at) {
    return [...new Set(columns[at].texts)];
  }

  /** @param {string} key */
  const columnOf = (key) => columns.findIndex((each) => each.key === key);

  /** Returns a function that tells where a value stands. @param {number[]} values @param {number} from @param {number} to @param {boolean} log @param {boolean} zero */
  function scaled(values, from, to, log, zero) {
    let [low, high] = [Math.min(...values), Math.max(...values)];
    if (log) [low, high] = [Math.log(low / 1.15), Math.log(high * 1.15)];
    else if (zero) [low, high] = [0, high * 1.06 || 1];
    else [low, high] = [low - 0.06 * (high - low || high || 1), high + 0.06 * (high - low || high || 1)];
    const share = (to - from) / (high - low || 1);
    return { at: (/** @type {number} */ value) => from + ((log ? Math.log(value) : value) - low) * share, low: log ? Math.exp(low) : low, high: log ? Math.exp(high) : high };
  }

  /** Returns round numbers between two. @param {number} low @param {number} high @param {boolean} log @param {number} most */
  function ticks(low, high, log, most) {
    if (log) {
      const found = [];
      for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
        for (const one of [1, 2, 5]) if (one * 10 ** power >= low && one * 10 ** power <= high) found.push(one * 10 ** power);
      const tens = found.filter((each) => Number.isInteger(+Math.log10(each).toFixed(6)));
      return found.length <= most ? found : tens.length > 1 ? tens.filter((_, at) => at % Math.ceil(tens.length / most) === 0) : found.filter((_, at) => at % 2 === 0);
    }
    const raw = (high - low) / most, power = 10 ** Math.floor(Math.log10(raw || 1));
    const step = power * ([1, 2, 5, 10].find((each) => each * power >= raw) || 10);
    const found = [];
    for (let value = Math.ceil(low / step) * step; value <= high + step / 1e6; value += step) found.push(+value.toPrecision(12));
    return found;
  }

  /** Returns a round number as an axis has it. @param {number} value */
  const short = (value) => Math.abs(value) >= 1e6 ? `${+(value / 1e6).toPrecision(3)}M` : value.toLocaleString("en-US", { maximumSignificantDigits: 4 });

  // Pictures

  const onPaper = () => document.documentElement.classList.contains("paper");

  /** Returns a picture: one stop of the Tab key, whose marks are reached by the arrow keys.
   * @param {HTMLElement} box @param {string} label @param {number} height @param {(svg: SVGElement, width: number) => void} draw */
  function chart(box, label, height, draw) {
    const figure = h("figure", { class: "chart" });
    box.append(figure);
    const width = Math.max(260, Math.floor(figure.clientWidth || box.clientWidth || 800));
    const svg = s("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "group", "aria-label": `${label}. Arrow keys go from mark to mark.` });
    draw(svg, width);
    svg.querySelector(".mark")?.setAttribute("tabindex", "0");
    svg.addEventListener("keydown", (event) => {
      const marks = [...svg.querySelectorAll(".mark")], at = marks.indexOf(/** @type {Element} */ (document.activeElement));
      const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: marks.length - 1 }[event.key];
      if (at < 0 || to === undefined) return;
      event.preventDefault();
      const next = /** @type {SVGElement} */ (marks[Math.max(0, Math.min(marks.length - 1, to))]);
      marks[at].setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    });
    figure.append(svg);
    return figure;
  }

  /** Makes a mark of a shape: it has a name, and leads to a case if there is one. @param {SVGElement} shape @param {string} label @param {string} [id] */
  function mark(shape, label, id) {
    shape.classList.add("mark");
    shape.setAttribute("tabindex", "-1");
    shape.setAttribute("role", id ? "button" : "img");
    shape.setAttribute("aria-label", label);
    if (id) {
      shape.addEventListener("click", () => open(id));
      shape.addEventListener("keydown", (event) => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); open(id); } });
    }
    return shape;
  }

  /** Returns a mark at a place, before it the bar of its interval where both ends are known.
   * @param {[number, number]} place @param {[number, number, number, number] | null} bar from and to @param {number} r @param {string} label @param {string} [id] */
  function dot([cx, cy], bar, r, label, id) {
    const [x1, y1, x2, y2] = bar ?? [0, 0, 0, 0];
    return [...(bar ? [s("line", { x1, y1, x2, y2, class: "whisker" })] : []), mark(s("circle", { cx, cy, r, fill: "currentColor" }), label, id)];
  }

  /** Draw a frame with its scales. @param {SVGElement} svg @param {number[]} box left, top, right, bottom
   * @param {{xs: number[], ys: number[], xLog?: boolean, yLog?: boolean, yZero?: boolean, x: string, y: string, xTicks?: boolean}} given */
  function frame(svg, box, given) {
    const [left, top, right, bottom] = box;
    const x = scaled(given.xs, left, right, !!given.xLog, false), y = scaled(given.ys, bottom, top, !!given.yLog, !!given.yZero);
    for (const value of ticks(y.low, y.high, !!given.yLog, 6)) {
      svg.append(s("line", { x1: left, x2: right, y1: y.at(value), y2: y.at(value), class: "axis" }), s("text", { x: left - 6, y: y.at(value) + 4, "text-anchor": "end", class: "quiet" }, short(value)));
    }
    const there = [...new Set(given.xs)], most = Math.max(2, Math.floor((right - left) / 80));
    if (given.xTicks !== false) for (const value of given.xTicks && there.length <= Math.min(most, 8) ? there : ticks(x.low, x.high, !!given.xLog, most).filter((each) => !given.xTicks || Number.isInteger(each))) {
      svg.append(s("text", { x: x.at(value), y: bottom + 16, "text-anchor": "middle", class: "quiet" }, short(value)));
    }
    svg.append(s("text", { x: left - 44, y: top - 10, class: "quiet" }, given.y), s("text", { x: right, y: bottom + 34, "text-anchor": "end", class: "quiet" }, given.x));
    return { x: x.at, y: y.at };
  }

  /** Returns a hatch over a stage's colour, or the colour. @param {Stage} stage @param {SVGElement} svg */
  function filled(stage, svg) {
    if (!stage.hatch) return stage.fill;
    const id = `h${data.stages.indexOf(stage)}`;
    const drawn = { "/": "M-1 7L7 -1M3 9L9 3M-3 3L3 -3", "\\": "M-1 -1L7 7M3 -3L9 3M-3 3L3 9", "-": "M0 3H6", "|": "M3 0V6", "x": "M0 0L6 6M6 0L0 6", "+": "M0 3H6M3 0V6", ".": "M2 3H4" }[stage.hatch] || "M0 3H6";
    if (!svg.querySelector(`#${id}`)) svg.append(s("defs", {}, s("pattern", { id, width: 6, height: 6, patternUnits: "userSpaceOnUse" },
      s("rect", { width: 6, height: 6, fill: stage.fill }), s("path", { d: drawn, stroke: stage.line, "stroke-width": 1 }))));
    return `url(#${id})`;
  }

  /** Returns what a bar consists of: the visual embedder's stages, the others as a whole. @param {Case} one */
  function parts(one) {
    const inner = one.rows.filter(([at, level, latency]) => latency && (data.stages[at].component === "visual_embedder" ? level === STAGE : level === COMPONENT));
    const named = new Set(inner.map(([at]) => data.stages[at].component));
    const alone = one.rows.filter(([at, level, latency]) => latency && level === STAGE && !named.has(data.stages[at].component));
    return [...inner, ...alone].sort((a, b) => one.rows.indexOf(a) - one.rows.indexOf(b));
  }

  /** @param {Row} row */
  const told = (row) => `${row[3][0]} ms, n = ${row[2] ? row[2][4].toLocaleString("en-US") : 0}`;

  /** Draw the paper's Figure 1 of what is shown. @param {number[]} shown */
  function drawBars(shown) {
    const section = begin("bars"), mostBars = onPaper() ? MOST_BARS_OF_A_SHEET : MOST_BARS, bars = shown.filter((at) => parts(cases[at]).length).slice(0, mostBars);
    section.hidden = !bars.length;
    if (!bars.length) return;
    const sums = bars.map((at) => parts(cases[at]).reduce((sum, row) => sum + (row[2] ? row[2][0] : 0), 0));
    const sorted = [...sums].sort((a, b) => a - b), most = sorted[sorted.length - 1];
    const gap = sorted.slice(1).reduce((best, value, at) => value / sorted[at] > sorted[best + 1] / sorted[best] ? at : best, 0);
    const broken = sorted.length > 1 && sorted[gap + 1] / sorted[gap] > 2.5;
    const options = /** @type {[string, string][]} */ ([["linear", "linear"], ["log", "logarithmic"], ...(broken ? [["broken", "broken"]] : [])]);
    const kind = state().get("scale") ?? "linear";
    section.append(h("div", { class: "tools" }, choice("Scale", "scale", options, "linear")));
    const box = h("div");
    section.append(box);
    const longest = Math.max(...bars.map((at) => cases[at].name.length));
    // Names stand over their bars where there is no room beside.
    const narrow = box.clientWidth < WIDE || 6.8 * longest > 0.4 * box.clientWidth, step = narrow ? 46 : 30, used = /** @type {Set<Stage>} */ (new Set());
    chart(box, "Latency by stage", bars.length * step + 46, (svg, width) => {
      const left = narrow ? 0 : 16 + 6.8 * longest, right = width - 64;
      const least = Math.min(...bars.map((at) => Math.min(...parts(cases[at]).map((row) => row[2] && row[2][0] || most).slice(0, 1)))) || most / 1e4;
      const [until, from] = [1.06 * sorted[gap], 0.94 * sorted[gap + 1]];
      const log = scaled([Math.max(least / 2, most / 1e6), most], left, right, true, false);
      const at = /** @type {Scale} */ (kind === "log" ? (value) => Math.max(left, log.at(Math.max(value, log.low)))
        : kind === "broken" && broken ? (value) => value <= until ? left + 0.66 * (right - left) * value / until : Math.max(left + 0.66 * (right - left), left + (0.7 + 0.3 * (value - from) / (most - from || 1)) * (right - left))
        : (value) => left + (right - left) * value / most);
      const bottom = bars.length * step + 4;
      const marks = kind === "log" ? ticks(log.low, log.high, true, Math.max(2, Math.floor((right - left) / 90)))
        : kind === "broken" && broken ? [...ticks(0, until, false, 4), ...ticks(from, most, false, 2)] : ticks(0, most, false, Math.max(2, Math.floor((right - left) / 90)));
      for (const value of marks) svg.append(s("line", { x1: at(value), x2: at(value), y1: 0, y2: bottom, class: "axis" }), s("text", { x: at(value), y: bottom + 15, "text-anchor": value ? "middle" : "start", class: "quiet" }, short(value)));
      svg.append(s("text", { x: right, y: bottom + 33, "text-anchor": "end", class: "quiet" }, "ms, sum of stages"));
      bars.forEach((index, line) => {
        const one = cases[index], top = line * step + (narrow ? 18 : 4), room = width / 6.8;
        const name = narrow && one.name.length > room ? `${one.name.slice(0, room - 1)}…` : one.name;
        svg.append(s("text", narrow ? { x: 0, y: top - 5 } : { x: left - 8, y: top + 15, "text-anchor": "end" }, name));
        let sum = 0;
        for (const row of parts(one)) {
          const stage = data.stages[row[0]], value = row[2] ? row[2][0] : 0;
          used.add(stage);
          const x = sum ? at(sum) : left;
          svg.append(mark(s("rect", { x, y: top, width: Math.max(0.75, at(sum + value) - x), height: 22, fill: filled(stage, svg) }), `${brief(one.name)}, ${stage.title}: ${told(row)}`, one.id));
          sum += value;
        }
        if (kind === "broken" && broken && sum > from) { const x = left + 0.68 * (right - left); svg.append(s("path", { d: `M${x - 3} ${top - 3}l6 9l-6 9l6 9h5l-6 -9l6 -9l-6 -9z`, class: "ground" })); }
        svg.append(s("text", { x: at(sum) + 6, y: top + 15 }, digits(sum)));
      });
    }).append(legend([...used].sort((a, b) => data.stages.indexOf(a) - data.stages.indexOf(b))));
    if (bars.length < shown.length) section.append(h("p", { class: "said" }, `The first ${bars.length} timed cases of the ${shown.length.toLocaleString("en-US")} that the table shows; its order and filters choose them.`));
  }

  /** @param {Stage[]} stages */
  function legend(stages) {
    return h("ul", { class: "legend" }, ...stages.map((stage) => {
      const svg = s("svg", { viewBox: "0 0 18 12", "aria-hidden": "true" });
      svg.append(s("rect", { width: 18, height: 12, fill: filled(stage, svg) }));
      return h("li", {}, svg, stage.title);
    }));
  }

  /** Draw a quantity along an axis, or two quantities with their frontier. @param {number[]} shown */
  function drawMap(shown) {
    const section = begin("map");
    const drawable = columns.map((_, at) => at).filter((at) => columns[at].number && columns[at].values.some((each) => number(each) !== null));
    const xs = drawable.filter((at) => columns[at].kind === "quantity" || new Set(columns[at].values.map(number)).size > 1);
    const ys = drawable.filter((at) => columns[at].kind === "quantity");
    const usualX = [...(columnOf("keys-and-values") < 0 ? [] : ["visual-tokens"]), "batch-size", "pixels", "visual-tokens", "text-length", "threads", "flops", "parameters"].map(columnOf).find((at) => xs.includes(at)) ?? xs[0];
    const usualY = ys.includes(columnOf("whole")) ? columnOf("whole") : ys[0];
    section.hidden = cases.length < 2 || usualX === undefined || usualY === undefined;
    if (section.hidden) return;
    const option = (/** @type {number} */ at) => /** @type {[string, string]} */ ([columns[at].key, columns[at].title]);
    section.append(h("div", { class: "tools" }, choice("Across", "x", xs.map(option), columns[usualX].key), choice("Up", "y", ys.map(option), columns[usualY].key)));
    const pick = (/** @type {string} */ key, /** @type {number[]} */ among, /** @type {number} */ usual) => among.includes(columnOf(state().get(key) ?? "")) ? columnOf(state().get(key) ?? "") : usual;
    const [x, y] = [pick("x", xs, usualX), pick("y", ys, usualY)];
    const points = shown.map((at) => ({ at, x: number(values[at][x]), y: number(values[at][y]), ends: values[at][y] }))
      .filter((each) => each.x !== null && each.y !== null).map((each) => ({ ...each, x: Number(each.x), y: Number(each.y) })).slice(0, 1000);
    if (!points.length) { section.append(h("p", { class: "said" }, "None of the cases shown has both.")); return; }
    const curve = columns[x].kind === "axis";
    const hides = ["verdict", "visual-tokens", "pixels", columns[x].key];
    const own = facets.filter((at) => !hides.includes(columns[at].key) && !(columns[at].key === "kind" && facets.includes(columnOf("embedder"))) && new Set(points.map((each) => texts[each.at][at])).size > 1);
    // What tells lines apart is what else was asked for; without such, each embedder's kind.
    const of = (/** @type {number} */ at) => own.map((each) => texts[at][each]).join(", ") || (curve ? "all" : cases[at].name);
    const sizes = curve && columns[x].key === "batch-size" ? (/** @type {number} */ at) => [of(at), texts[at][columnOf("pixels")]].filter(Boolean).join(", ") : of;
    // Sizes part lines, and are too long to name them.
    const label = (/** @type {string} */ name) => brief(name.split(", ").length > 6 ? name.replace(/, hidden_size [^;]*?layer_norm_eps [^,]*/, "") : name);
    const series = [...new Set(points.map((each) => sizes(each.at)))];
    const log = { x: spread(points.map((each) => each.x)), y: spread(points.map((each) => each.y)) };
    const bounds = points.flatMap(({ ends, y: value }) => Array.isArray(ends) ? [value, ...ends.filter((each) => each !== null && (!log.y || Number(each) > 0)).map(Number)] : [value]);
    const better = columns[y].more ? 1 : -1, lessX = columns[x].more ? -1 : 1;
    const front = curve ? [] : frontier(points, lessX, better);
    const box = h("div"), lined = curve && series.length <= 3 * MOST_LINES, dashes = (/** @type {number} */ line) => ["none", "6 3", "2 3"][Math.floor(line / MOST_LINES)];
    section.append(box);
    const figure = chart(box, `${columns[y].title} by ${columns[x].title}`, 380, (svg, width) => {
      const at = frame(svg, [58, 26, width - 12, 336], { xs: points.map((each) => each.x), ys: bounds, xLog: log.x, yLog: log.y, xTicks: curve || undefined, x: columns[x].title, y: columns[y].title });
      const path = (/** @type {typeof points} */ those) => those.map((each, index) => `${index ? "L" : "M"}${at.x(each.x).toFixed(1)} ${at.y(each.y).toFixed(1)}`).join("");
      if (front.length > 1) svg.append(s("path", { d: path(front), class: "line s6", "stroke-dasharray": "5 4" }));
      series.forEach((name, line) => {
        const those = points.filter((each) => sizes(each.at) === name).sort((a, b) => a.x - b.x), group = s("g", { class: `s${line % MOST_LINES}` });
        if (lined && those.length > 1) group.append(s("path", { d: path(those), class: "line", "stroke-dasharray": dashes(line) }));
        for (const each of those) {
          const [, low, high] = Array.isArray(each.ends) ? each.ends : [null, null, null];
          group.append(...dot([at.x(each.x), at.y(each.y)], low && high ? [at.x(each.x), at.y(low), at.x(each.x), at.y(high)] : null, front.includes(each) ? 5.5 : 4, `${brief(cases[each.at].name)}: ${columns[x].title} ${texts[each.at][x]}; ${columns[y].title} ${texts[each.at][y]}${counted(each.at)}${front.includes(each) ? "; on the frontier" : ""}`, cases[each.at].id));
        }
        svg.append(group);
      });
    });
    if (series.length > 1 && series.length <= 3 * MOST_LINES) figure.append(h("ul", { class: "legend" }, ...series.map((name, line) =>
      h("li", {}, s("svg", { viewBox: "0 0 26 12", class: `s${line % MOST_LINES}`, "aria-hidden": "true" },
        ...(lined ? [s("path", { d: "M0 6H26", class: "line", "stroke-dasharray": dashes(line) })] : []), s("circle", { cx: 13, cy: 6, r: 4, fill: "currentColor" })), label(name)))));
    section.append(h("p", { class: "said" }, `${curve ? "" : front.length > 1 ? "The dashed line is the frontier: no case shown is better in both. " : `${brief(cases[front[0].at].name)} is the best in both of those shown. `}Bars are 95% intervals.`));
  }

  /** @param {number} at */
  const counted = (at) => { const whole = cases[at].rows.find((row) => row[1] === WHOLE); return whole && whole[2] ? `; n = ${whole[2][4].toLocaleString("en-US")}` : ""; };

  /** Returns whether values lie so far apart that an axis is logarithmic. @param {number[]} values */
  const spread = (values) => Math.min(...values) > 0 && Math.max(...values) / Math.min(...values) >= 8;

  /** Returns the points that no other is better than in both. @template {{x: number, y: number}} P @param {P[]} points @param {number} lessX @param {number} better @returns {P[]} */
  function frontier(points, lessX, better) {
    let best = -Infinity;
    return [...points].sort((a, b) => lessX * (a.x - b.x) || better * (b.y - a.y)).filter((each) => better * each.y > best ? (best = better * each.y, true) : false);
  }

  // Time to first token

  /** Returns latency of a component, its ends where known. @param {number} at @param {string} component */
  function componentOf(at, component) {
    const own = cases[at].rows.filter((row) => data.stages[row[0]].component === component);
    const row = own.find((each) => each[1] === COMPONENT) ?? own.find((each) => each[1] === STAGE);
    return row && row[2] ? row[2] : null;
  }

  function drawWait() {
    const section = begin("wait");
    section.hidden = !data.waits.length;
    if (!data.waits.length) return;
    const wait = data.waits[Number(state().get("model") ?? 0)] ?? data.waits[0];
    const many = /** @type {[string, string][]} */ (data.waits.map((each, at) => [String(at), each.name]));
    const tower = wait.towers.includes(byId.get(state().get("tower") ?? "") ?? -1) ? /** @type {number} */ (byId.get(state().get("tower") ?? "")) : wait.towers[0];
    const [least, most] = [wait.tokens[0], wait.tokens[wait.tokens.length - 1]];
    const tokens = Math.max(least, Math.min(most, Number(state().get("tokens") ?? columnNumber(tower, "visual-tokens") ?? least)));
    // Of several runs with so many tokens, the one in the middle.
    const points = wait.cases.map((those, at) => {
      const found = those.map((each) => componentOf(each, "modality_interaction")).filter((each) => each !== null).sort((a, b) => a[0] - b[0]);
      return { x: wait.tokens[at], at: those[0], latency: found[Math.floor(found.length / 2)] };
    }).filter((each) => each.latency);
    const next = Math.max(1, points.findIndex((each) => each.x >= tokens)), [a, b] = [points[next - 1], points[next]];
    const share = (tokens - a.x) / (b.x - a.x), between = (/** @type {0 | 1 | 2} */ end) => a.latency[end] === null || b.latency[end] === null ? null : Number(a.latency[end]) * (1 - share) + Number(b.latency[end]) * share;
    const found = [[between(0), between(1), between(2)], componentOf(tower, "visual_embedder"), componentOf(tower, "textual_embedder"), componentOf(tower, "preprocessing")].filter((each) => each !== null);
    const sum = found.reduce((total, each) => total + Number(each[0]), 0);
    const known = found.every((each) => each[1] !== null && each[2] !== null);
    const half = (/** @type {1 | 2} */ end) => Math.sqrt(found.reduce((total, each) => total + (Number(each[end]) - Number(each[0])) ** 2, 0));
    const seeing = componentOf(tower, "visual_embedder");
    const slider = /** @type {HTMLInputElement} */ (h("input", { type: "range", min: String(least), max: String(most), step: "1", value: String(tokens), name: "tokens", oninput: () => { put({ tokens: slider.value }); /** @type {HTMLElement} */ (find("wait").querySelector("[name=tokens]")).focus(); } }));
    section.append(h("div", { class: "tools" },
      ...(data.waits.length > 1 ? [choice("Model", "model", many, "0")] : []),
      choice("Visual embedder in front", "tower", wait.towers.map((at) => [cases[at].id, brief(cases[at].name)]), cases[wait.towers[0]].id),
      h("label", {}, `Visual tokens: ${tokens.toLocaleString("en-US")}`, slider)));
    section.append(h("p", { class: "answer", role: "status" }, `${wait.title}: `, h("strong", {}, `${digits(sum)} ms`),
      known ? ` [${digits(sum - half(1))}, ${digits(sum + half(2))}]` : "", seeing ? `, ${(100 * seeing[0] / sum).toFixed(1)}% of it seeing` : ""));
    const box = h("div");
    section.append(box);
    chart(box, `Interaction against visual tokens: ${wait.name}`, 300, (svg, width) => {
      const ends = points.flatMap((each) => [each.latency[0], each.latency[1] ?? each.latency[0], each.latency[2] ?? each.latency[0]]);
      const at = frame(svg, [58, 26, width - 12, 256], { xs: points.map((each) => each.x), ys: ends, yZero: true, xTicks: true, x: "visual tokens", y: "modality interaction (ms)" });
      svg.append(s("line", { x1: at.x(tokens), x2: at.x(tokens), y1: 26, y2: 256, class: "axis" }));
      const group = s("g", { class: "s0" }, s("path", { d: points.map((each, index) => `${index ? "L" : "M"}${at.x(each.x)} ${at.y(each.latency[0])}`).join(""), class: "line" }));
      for (const each of points) {
        const [value, low, high] = each.latency, x = at.x(each.x);
        group.append(...dot([x, at.y(value)], low && high ? [x, at.y(low), x, at.y(high)] : null, 4, `${each.x.toLocaleString("en-US")} visual tokens: ${digits(value)} [${digits(low)}, ${digits(high)}] ms, n = ${each.latency[4].toLocaleString("en-US")}`, cases[each.at].id));
      }
      group.append(s("circle", { cx: at.x(tokens), cy: at.y(Number(between(0))), r: 6, fill: "none", stroke: "currentColor", "stroke-width": 2 }));
      svg.append(group);
    });
    section.append(h("p", { class: "said" }, `${wait.name}. Between the numbers of tokens that were measured, a straight line; beyond them, nothing. The interval takes the parts as independent.`));
  }

  /** @param {number} at @param {string} key */
  const columnNumber = (at, key) => columnOf(key) < 0 ? null : number(values[at][columnOf(key)]);

  // One case, and two

  /** Show a case, and go there. @param {string} id */
  function open(id) {
    put({ case: id });
    find("case-title").focus({ preventScroll: true });
    find("case").scrollIntoView({ block: "start" });
  }

  function drawCase() {
    const section = begin("case"), index = byId.get(state().get("case") ?? "");
    section.hidden = index === undefined;
    rows.forEach((row, at) => row.classList.toggle("chosen", at === index));
    if (index === undefined) return;
    const one = cases[index], origin = data.shared[one.origin];
    find("case-title").textContent = brief(one.name);
    section.append(h("button", { class: "close", type: "button", onclick: () => { put({ case: null }); rows[index].querySelector("a")?.focus(); } }, "Close"),
      ...one.lines.map((at) => h("p", { class: "said" }, data.shared[at])),
      h("ul", { class: "remarks" }, ...one.remarks.map((at) => h("li", {}, data.shared[at]))),
      table(`Stages of ${brief(one.name)}`, ["Stage", ...data.inner], one.rows.map((row) => {
        const stage = data.stages[row[0]], inner = row[1] === STAGE && one.rows.some((each) => each[1] === COMPONENT && data.stages[each[0]].component === stage.component);
        return { cells: [stage.title, ...row[3]], look: inner ? "d1" : "strong", apart: row[1] === WHOLE };
      })));
    const samples = one.trials.flatMap((trial, number) => trial[7].flatMap((block, which) => block.map((value) => ({ value, trial: number, block: which }))));
    if (samples.length) {
      const both = h("div", { class: "pair-of" }), [over, spreadBox] = [h("div"), h("div")];
      both.append(over, spreadBox);
      section.append(both);
      over.append(h("h3", {}, "Passes over time"));
      chart(over, `Passes of ${brief(one.name)} over time`, 250, (svg, width) => {
        const box = [58, 26, width - 8, 206], at = frame(svg, box, { xs: [0, samples.length], ys: samples.map((each) => each.value), x: "passes in order, by trial and block", y: "ms", xTicks: false });
        let begun = 0;
        one.trials.forEach((trial, which) => {
          const count = trial[7].flat().length, [x0, x1] = [at.x(begun), at.x(begun + count)];
          if (which % 2 === 0) svg.prepend(s("rect", { x: x0, y: box[1], width: x1 - x0, height: box[3] - box[1], class: "band" }));
          svg.append(s("text", { x: (x0 + x1) / 2, y: box[3] + 16, "text-anchor": "middle", class: "quiet" }, one.trials.length > 8 ? String(which + 1) : `trial ${which + 1}`));
          let edge = begun;
          for (const block of trial[7].slice(0, -1)) { edge += block.length; svg.append(s("line", { x1: at.x(edge), x2: at.x(edge), y1: box[1], y2: box[3], class: "axis", "stroke-dasharray": "2 3" })); }
          const sorted = trial[7].flat().sort((a, b) => a - b), middle = sorted[Math.floor(sorted.length / 2)];
          if (count) svg.append(s("line", { x1: x0, x2: x1, y1: at.y(middle), y2: at.y(middle), class: "whisker s1" }));
          begun += count;
        });
        samples.forEach((each, order) => svg.append(mark(s("circle", { cx: at.x(order + 0.5), cy: at.y(each.value), r: 2.4, fill: "currentColor", class: "s0" }), `trial ${each.trial + 1}, block ${each.block + 1}: ${digits(each.value)} ms`)));
      });
      spreadBox.append(h("h3", {}, "Distribution of passes"));
      chart(spreadBox, `Distribution of the passes of ${brief(one.name)}`, 250, (svg, width) => {
        const sorted = samples.map((each) => each.value).sort((a, b) => a - b), [low, high] = [sorted[0], sorted[sorted.length - 1]];
        const bins = Math.max(1, Math.min(32, Math.ceil(Math.sqrt(sorted.length)))), wide = (high - low) / bins || low / 100 || 1, counts = /** @type {number[]} */ (Array(bins).fill(0));
        for (const value of sorted) counts[Math.min(bins - 1, Math.floor((value - low) / wide))] += 1;
        const at = frame(svg, [58, 26, width - 8, 206], { xs: [low, low + bins * wide], ys: [0, ...counts], yZero: true, x: "ms", y: "passes" });
        counts.forEach((count, bin) => {
          const [x0, x1] = [at.x(low + bin * wide), at.x(low + (bin + 1) * wide)];
          svg.append(mark(s("rect", { x: x0, y: at.y(count), width: Math.max(1, x1 - x0 - 1), height: at.y(0) - at.y(count), fill: "currentColor", class: "s0" }), `${digits(low + bin * wide)} to ${digits(low + (bin + 1) * wide)} ms: ${count} of ${sorted.length}`));
        });
      });
      const all = one.trials.reduce((sum, trial) => sum + trial[1], 0);
      section.append(h("p", { class: "said" }, `${samples.length < all ? `${samples.length.toLocaleString("en-US")} of ${all.toLocaleString("en-US")} passes, evenly from each block` : `All ${all.toLocaleString("en-US")} passes`}; dotted lines part blocks, bands are trials, each with its median.`));
      section.append(h("h3", {}, "Conditions"), table(`Conditions of ${brief(one.name)}`, ["Trial", "Passes", "First call (ms)", "Warm-up settled", "CPU share (%)", "Involuntary switches", "Load average"],
        one.trials.map(([began, passes, first, settled, cpu, switches, load], which) => ({ cells: [`${which + 1}, ${data.shared[began].slice(0, 19).replace("T", " ")}`, passes.toLocaleString("en-US"), digits(first), settled === null ? "–" : settled ? "yes" : "no", digits(cpu), switches === null ? "–" : switches.toLocaleString("en-US"), digits(load)] }))));
    }
    section.append(h("h3", {}, "How to reproduce it"), terms([["Command", origin.command], ["Plan", origin.plan], ["Commit", origin.commit], ["Machine", origin.machine], ["Versions", origin.versions], ["Settings", origin.settings], ["Doctor", origin.doctor], ["Date", data.shared[one.at]], ["Record", one.record]]),
      h("details", {}, h("summary", {}, "Record without its samples"), h("pre", { tabindex: "0" }, JSON.stringify(Object.fromEntries(Object.entries(one.raw).map(([key, at]) => [key, data.shared[at]])), null, 2))));
  }

  /** Returns the ratio of two estimates with its interval: that of each, joined in logarithms.
   * Source: Zou and Donner, "Construction of confidence limits about effect measures", Statistics in Medicine 27 (2008).
   * @param {Estimate} a @param {Estimate} b */
  function ratio(a, b) {
    const value = b[0] / a[0];
    if (!a[1] || !a[2] || !b[1] || !b[2]) return { value, low: null, high: null };
    const [down, up] = [Math.hypot(Math.log(b[0] / b[1]), Math.log(a[2] / a[0])), Math.hypot(Math.log(b[2] / b[0]), Math.log(a[0] / a[1]))];
    return { value, low: value * Math.exp(-down), high: value * Math.exp(up) };
  }

  function drawPair() {
    const section = begin("pair"), picked = (state().get("pair") ?? "").split(",").map((id) => byId.get(id)).filter((at) => at !== undefined).slice(0, 2);
    section.hidden = picked.length !== 2;
    rows.forEach((row, at) => { const box = row.querySelector("input"); if (box) box.checked = picked.includes(at); });
    if (picked.length !== 2) return;
    const [a, b] = picked.map((at) => cases[at]), [first, second] = picked;
    const of = (/** @type {Case} */ one) => new Map(one.rows.map((row) => [data.stages[row[0]].name, row]));
    const [left, right] = [of(a), of(b)], names = data.stages.map((each) => each.name).filter((name) => left.has(name) || right.has(name));
    const whole = { both: /** @type {ReturnType<typeof ratio> | null} */ (null) };
    const three = (/** @type {number} */ value) => value.toPrecision(value >= 100 ? 4 : 3);
    const lines = names.map((name) => {
      const [one, other] = [left.get(name), right.get(name)], both = one?.[2] && other?.[2] ? ratio(one[2], other[2]) : null;
      const row = /** @type {Row} */ (one ?? other);
      if (row[1] === WHOLE) whole.both = both;
      return { cells: [data.stages[row[0]].title, both ? `${three(both.value)} [${both.low === null ? "–" : three(both.low)}, ${both.high === null ? "–" : three(both.high)}]` : "–", one ? one[3][0] : "–", other ? other[3][0] : "–"],
        look: row[1] === STAGE && names.some((each) => each === data.stages[row[0]].component) && name.includes(".") ? "d1" : "strong", apart: row[1] === WHOLE };
    });
    const both = whole.both, sure = both && both.low !== null && both.high !== null ? both.low > 1 ? "longer" : both.high < 1 ? "shorter" : "" : "";
    const differ = columns.map((_, at) => at).filter((at) => columns[at].kind === "axis" && !["verdict", "kind"].includes(columns[at].key) && texts[first][at] !== texts[second][at]);
    section.append(h("button", { class: "close", type: "button", onclick: () => { put({ pair: null }); rows[first].querySelector("input")?.focus(); } }, "Close"),
      h("p", { class: "answer" }, !both ? "One of the two has no times." : h("span", {}, h("strong", {}, brief(b.name)), ` takes ${three(both.value)} times as long as `, h("strong", {}, brief(a.name)), both.low === null ? "; too few trials tell how sure that is." : sure ? `: surely ${sure}, as far as these records tell.` : ": within what these records leave open, neither is faster.")),
      table(`${brief(a.name)} and ${brief(b.name)}`, ["Stage", "Ratio [95% interval]", `${brief(a.name)} (ms) [95% interval]`, `${brief(b.name)} (ms) [95% interval]`], lines),
      h("p", { class: "said" }, a.group === b.group && data.shared[a.group]
        ? "They took turns in one group, so that the machine's drift met both; the interval takes them as independent."
        : `They are stored records of ${data.shared[a.at].slice(0, 16).replace("T", " ")} and ${data.shared[b.at].slice(0, 16).replace("T", " ")}: what the machine did between the two is in the ratio and not in its interval. 'vilt-bench run' of both measures them in turns; 'vilt-bench gate' decides between two versions of the code.`),
      ...(differ.length ? [h("p", { class: "said" }, `They differ in ${differ.map((at) => columns[at].key === "sizes" ? columns[at].title.toLowerCase() : `${columns[at].title.toLowerCase()} (${brief(texts[first][at])} / ${brief(texts[second][at])})`).join(", ")}.`)] : []));
  }

  // The table of cases

  let lately = "";

  /** Returns a column of the table to sort by: what is unknown comes last. @param {number} column @param {number} way @param {number} a @param {number} b */
  function order(column, way, a, b) {
    if (column < 0) return way * cases[a].name.localeCompare(cases[b].name, "en", { numeric: true });
    const plain = (/** @type {Value} */ value) => Array.isArray(value) ? value[0] : value;
    const [one, other] = [plain(values[a][column]), plain(values[b][column])];
    if (one === null || other === null) return Number(one === null) - Number(other === null);
    return way * (typeof one === "number" && typeof other === "number" ? one - other : String(one).localeCompare(String(other), "en", { numeric: true }));
  }

  /** Returns what the table shows, in order; and shows it. */
  function drawTable() {
    const now = state(), words = (now.get("q") ?? "").toLowerCase().split(/\s+/).filter(Boolean);
    const wanted = facets.filter((at) => now.has(`f.${columns[at].key}`));
    let shown = cases.map((_, at) => at).filter((at) => words.every((word) => said[at].includes(word)) && wanted.every((each) => now.getAll(`f.${columns[each].key}`).includes(texts[at][each])));
    const key = now.get("sort") ?? "", way = key.startsWith("-") ? -1 : 1, name = key.replace(/^-/, "");
    const column = name === "name" ? -1 : columnOf(name);
    if (name === "name" || column >= 0) shown = [...shown].sort((a, b) => order(column, way, a, b));
    const own = now.get("columns")?.split(","), visible = columns.map((each) => own ? own.includes(each.key) : each.shown);
    if (visible.join() !== lately) {
      [heading, ...rows].forEach((row, line) => row.replaceChildren(row.cells[0], ...columns.map((each, at) => ({ each, at })).filter(({ at }) => visible[at]).map(({ each, at }) =>
        line ? h("td", each.number ? {} : { class: "text" }, texts[line - 1][at]) : headOf(each.key, each.title, !each.number))));
      lately = visible.join();
    }
    [...heading.cells].forEach((head) => head.dataset.key === name ? head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending") : head.removeAttribute("aria-sort"));
    // What is hidden may stand anywhere.
    const seen = shown.slice(0, MOST_ROWS), kept = new Set(seen);
    rows.forEach((row, at) => { if (row.hidden === kept.has(at)) row.hidden = !row.hidden; });
    if (seen.some((at, place) => body.children[place] !== rows[at])) body.prepend(...seen.map((at) => rows[at]));
    const status = /** @type {HTMLElement} */ (find("cases").querySelector(".said")), many = seen.length < shown.length;
    status.textContent = many ? `The first ${seen.length.toLocaleString("en-US")} of ${shown.length.toLocaleString("en-US")} cases stand here; order and filters choose them, and copies have all.`
      : shown.length === cases.length ? "" : shown.length ? `${shown.length.toLocaleString("en-US")} of ${cases.length.toLocaleString("en-US")} cases` : "No case is left by these filters.";
    return { shown, visible };
  }

  /** Returns the table as shown, in a language. @param {string} language */
  function written(language) {
    const { shown, visible } = drawTable(), clean = (/** @type {string} */ text) => text.replace(/\s+/g, " ").trim();
    const among = columns.map((_, at) => at).filter((at) => visible[at]);
    const lines = [["Embedder", ...among.map((at) => columns[at].title)], ...shown.map((at) => [cases[at].name, ...among.map((each) => texts[at][each])])].map((line) => line.map(clean));
    if (language === "CSV") {
      // A spreadsheet takes these for a formula's beginning.
      return lines.map((line) => line.map((text) => /^[=+\-@]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text).map((text) => /[",]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text).join(",")).join("\n") + "\n";
    }
    if (language === "Markdown") {
      const row = (/** @type {string[]} */ line) => `| ${line.map((text) => text.replace(/[\\`*_~$|<>[\]]/g, "\\$&")).join(" | ")} |\n`;
      return row(lines[0]) + `| --- |${among.map((at) => columns[at].number ? " ---: |" : " --- |").join("")}\n` + lines.slice(1).map(row).join("");
    }
    const signs = /** @type {Record<string, string>} */ ({ "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}", "|": "\\textbar{}", "–": "{--}", "×": "\\(\\times\\)", "[": "{[}", "]": "{]}", "✔": "", "≈": "\\(\\approx\\)", "✖": "", "◼": "" });
    const row = (/** @type {string[]} */ line) => `    ${line.map((text) => text.replace(/[{}$&#_%\\~^<>|–×[\]✔≈✖◼]/g, (sign) => signs[sign] ?? `\\${sign}`).trim()).join(" & ")} \\\\\n`;
    return `\\begin{tabular}{@{}l${among.map((at) => columns[at].number ? "r" : "l").join("")}@{}}\n    \\toprule\n${row(lines[0])}    \\midrule\n${lines.slice(1).map(row).join("")}    \\bottomrule\n\\end{tabular}\n`;
  }

  /** Returns a column's head, which sorts by it. @param {string} key @param {string} title @param {boolean} text */
  function headOf(key, title, text) {
    const head = h("th", { scope: "col", class: text ? "text" : "" }, h("button", { type: "button", onclick: () => {
      const now = state().get("sort");
      put({ sort: now === key ? `-${key}` : now === `-${key}` ? null : key });
    } }, title));
    head.dataset.key = key;
    return head;
  }

  /** Returns a column's values to tick: none is all. @param {number} at */
  function facet(at) {
    const name = `f.${columns[at].key}`, found = distinct(at).sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
    const box = h("fieldset", { "aria-label": columns[at].title }, ...found.map((value) => h("label", {}, h("input", { type: "checkbox", name, value, onchange: () => {
      const ticked = /** @type {HTMLInputElement[]} */ ([...box.querySelectorAll("input:checked")]).map((each) => each.value);
      put({ [name]: ticked.length < found.length ? ticked : null });
    } }), `${brief(value)} (${texts.filter((each) => each[at] === value).length.toLocaleString("en-US")})`)));
    // Within the window, whose edge may be near.
    const place = () => { box.style.left = "0"; box.style.left = `${Math.min(0, document.documentElement.clientWidth - 8 - box.getBoundingClientRect().right)}px`; };
    return h("details", { class: "facet", ontoggle: place }, h("summary", {}, columns[at].title, h("span", {})), box);
  }

  /** Add what the table is worked with; once. */
  function prepare() {
    const tools = /** @type {HTMLElement} */ (find("cases").querySelector(".tools")), area = /** @type {HTMLTextAreaElement} */ (h("textarea", { readonly: "", hidden: true, "aria-label": "The table as text" }));
    const search = h("input", { type: "search", name: "q", oninput: () => put({ q: /** @type {HTMLInputElement} */ (search).value }) });
    const copy = (/** @type {string} */ language) => h("button", { type: "button", onclick: () => {
      area.value = written(language);
      area.hidden = false;
      area.select();
      navigator.clipboard?.writeText(area.value).catch(() => undefined);
      /** @type {HTMLElement} */ (find("cases").querySelector(".said")).textContent = `Copied as ${language}.`;
    } }, `Copy ${language}`);
    tools.append(h("label", {}, "Search", search),
      ...facets.map(facet),
      ...["Markdown", "CSV", "LaTeX"].map(copy),
      h("details", {}, h("summary", {}, "Columns"), h("fieldset", {}, ...columns.map((each) => h("label", {}, h("input", { type: "checkbox", name: `column-${each.key}`, onchange: () => {
        const ticked = columns.filter((one) => /** @type {HTMLInputElement} */ (tools.querySelector(`[name="column-${one.key}"]`)).checked).map((one) => one.key);
        put({ columns: ticked.join() === columns.filter((one) => one.shown).map((one) => one.key).join() ? null : ticked.join() || "none" });
      } }), each.title)))));
    tools.after(area);
    tools.hidden = false;
    heading.replaceChildren(headOf("name", heading.cells[0].textContent || "", false));
    rows.forEach((row, at) => {
      const one = cases[at];
      row.cells[0].replaceChildren(h("span", { class: "named" },
        ...(cases.length > 1 ? [h("input", { type: "checkbox", class: "pick", title: "Compare with another", "aria-label": `Compare ${one.name}`, onchange: () => {
          const picked = (state().get("pair") ?? "").split(",").filter(Boolean), rest = picked.filter((id) => id !== one.id);
          put({ pair: (rest.length < picked.length ? rest : [...picked.slice(-1), one.id]).join() });
        } })] : []),
        h("a", { href: `#case=${one.id}`, onclick: (/** @type {Event} */ event) => { event.preventDefault(); open(one.id); } }, ...breakable(one.name))));
    });
  }

  /** Set what is chosen in the tools to what the address says. */
  function mirror() {
    const now = state(), own = now.get("columns")?.split(",");
    for (const field of /** @type {NodeListOf<HTMLInputElement>} */ (find("cases").querySelectorAll(".tools input"))) {
      if (field.name.startsWith("column-")) { const key = field.name.slice(7); field.checked = own ? own.includes(key) : columns[columnOf(key)].shown; }
      else if (field.type === "checkbox") field.checked = now.getAll(field.name).includes(field.value);
      else if (field.value !== (now.get(field.name) ?? "")) field.value = now.get(field.name) ?? "";
    }
    for (const box of /** @type {NodeListOf<HTMLElement>} */ (find("cases").querySelectorAll(".facet"))) {
      const ticked = /** @type {NodeListOf<HTMLInputElement>} */ (box.querySelectorAll("input:checked")), told = /** @type {HTMLElement} */ (box.querySelector("summary span"));
      told.textContent = ticked.length === 0 ? "all" : ticked.length === 1 ? ticked[0].value : `${ticked.length} of ${box.querySelectorAll("input").length}`;
    }
  }

  /** Empty a section but for its heading. @param {string} id */
  function begin(id) {
    const section = find(id), focused = section.contains(document.activeElement) ? /** @type {HTMLElement} */ (document.activeElement).getAttribute("name") : null;
    section.replaceChildren(section.children[0]);
    section.hidden = false;
    if (focused) setTimeout(() => /** @type {HTMLElement | null} */ (section.querySelector(`[name="${focused}"]`))?.focus());
    return section;
  }

  /** Draw runs in order with their levels, or ratios by stage with what is accepted. @param {Plot} plot */
  function drawPlot(plot) {
    const box = find(plot.key), wanted = state().get(`stage.${plot.key}`), focused = box.contains(document.activeElement);
    const view = plot.views.find((each) => each.name === wanted) ?? plot.views[0];
    box.replaceChildren();
    if (plot.views.length > 1) box.append(h("div", { class: "tools" }, choice("Stage", `stage.${plot.key}`, plot.views.map((each) => [each.name, each.name]), plot.views[0].name)));
    if (focused) box.querySelector("select")?.focus();
    if (plot.kind === "history") {
      chart(box, `${plot.title}, ${view.name}`, 260, (svg, width) => {
        const ends = view.points.flatMap(([, y, low, high]) => [y, low ?? y, high ?? y]), frameBox = [58, 26, width - 8, 216];
        const at = frame(svg, frameBox, { xs: view.points.map(([x]) => x), xTicks: true, ys: ends, x: plot.x, y: plot.y });
        for (const [from, to, y] of view.levels) svg.append(s("line", { x1: at.x(from - 0.5), x2: at.x(to + 0.5), y1: at.y(y), y2: at.y(y), class: "whisker s1", "stroke-width": 2 }));
        for (const [, to, y, label] of view.levels) if (label) svg.append(s("text", { x: Math.min(at.x(to + 0.5), width - 8), y: at.y(y) - 8, "text-anchor": "end" }, label));
        for (const [x, y, low, high, label] of view.points) {
          const bar = /** @type {[number, number, number, number] | null} */ (low !== null && high !== null ? [at.x(x), at.y(low), at.x(x), at.y(high)] : null);
          svg.append(s("g", { class: "s0" }, ...dot([at.x(x), at.y(y)], bar, view.points.length > 200 ? 2.5 : 4, label)));
        }
      });
      return;
    }
    const step = 28;
    chart(box, `${plot.title}: ${plot.x}`, plot.names.length * step + 46, (svg, width) => {
      const left = Math.min(0.4 * width, 16 + 6.6 * Math.max(...plot.names.map((each) => each.length))), bottom = plot.names.length * step + 4;
      const all = [1, plot.limit ?? 1, ...view.points.flatMap(([, value, low, high]) => [value, low ?? value, high ?? value])];
      const scale = scaled(all, left, width - 20, Math.min(...all) > 0, false);
      for (const value of ticks(scale.low, scale.high, false, Math.max(2, Math.floor((width - left) / 90)))) svg.append(s("line", { x1: scale.at(value), x2: scale.at(value), y1: 0, y2: bottom, class: "axis" }), s("text", { x: scale.at(value), y: bottom + 15, "text-anchor": "middle", class: "quiet" }, short(value)));
      if (plot.limit) svg.append(s("rect", { x: scale.at(1), y: 0, width: Math.max(1, scale.at(plot.limit) - scale.at(1)), height: bottom, class: "accepted" }));
      svg.append(s("line", { x1: scale.at(1), x2: scale.at(1), y1: 0, y2: bottom, stroke: "currentColor" }), s("text", { x: width - 20, y: bottom + 33, "text-anchor": "end", class: "quiet" }, plot.x));
      plot.names.forEach((name, line) => svg.append(s("text", { x: left - 8, y: line * step + 20, "text-anchor": "end" }, name.length > left / 6.2 ? `${name.slice(0, left / 6.2 - 1)}…` : name)));
      for (const [line, value, low, high, label] of view.points) {
        const y = line * step + 16, bar = /** @type {[number, number, number, number] | null} */ (low !== null && high !== null ? [scale.at(low), y, scale.at(high), y] : null);
        svg.append(s("g", { class: "s0" }, ...dot([scale.at(value), y], bar, 4.5, label)));
      }
    });
  }

  function update() {
    if (!listed) {
      data.plots.forEach(drawPlot);
      return;
    }
    mirror();
    const { shown } = drawTable();
    const picked = (state().get("pair") ?? "").split(",");
    drawPair();
    rows.forEach((row, at) => { const box = row.querySelector("input"); if (box) box.checked = picked.includes(cases[at].id); });
    drawCase();
    drawBars(shown);
    drawMap(shown);
    drawWait();
  }

  /** Tell what is under the pointer, or has the focus. @param {Event} event */
  function tell(event) {
    const tip = find("tip"), at = event.target instanceof Element ? event.target.closest(".mark") : null;
    tip.hidden = !at;
    if (!at) return;
    tip.textContent = at.getAttribute("aria-label");
    const box = at.getBoundingClientRect(), room = tip.getBoundingClientRect();
    tip.style.left = `${Math.max(4, Math.min(innerWidth - room.width - 4, box.left + box.width / 2 - room.width / 2))}px`;
    tip.style.top = `${box.top - room.height - 8 < 0 ? box.bottom + 8 : box.top - room.height - 8}px`;
  }

  document.documentElement.classList.add("live");
  if (listed) prepare();
  update();
  for (const kind of ["pointerover", "focusin"]) document.addEventListener(kind, tell);
  document.addEventListener("focusout", () => { find("tip").hidden = true; });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    find("tip").hidden = true;
    const box = document.activeElement?.closest(".facet[open]");
    box?.querySelector("summary")?.focus();
    box?.removeAttribute("open");
  });
  for (const kind of ["pointerdown", "focusin"]) document.addEventListener(kind, (event) => {
    for (const box of document.querySelectorAll(".facet[open]")) if (!box.contains(/** @type {Node} */ (event.target))) box.removeAttribute("open");
  });
  addEventListener("hashchange", update);
  // As wide as paper: a picture that is shrunk to it could not be read.
  for (const [kind, on] of /** @type {[string, boolean][]} */ ([["beforeprint", true], ["afterprint", false]])) addEventListener(kind, () => {
    document.documentElement.classList.toggle("paper", on);
    update();
  });
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; update(); } });
})();
