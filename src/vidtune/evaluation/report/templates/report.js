"use strict";

// Texts of runs are foreign: they are written as text (textContent), never as HTML.
const CHUNK = 40, LONGEST_MARKED = 400;
const SIGNS = { right: "✓ ", wrong: "✗ ", error: "! " };
const NAMES = { absent: "not asked" };

function make(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

function letter(run) {
  return String.fromCharCode(65 + run % 26) + (run >= 26 ? Math.floor(run / 26) : "");
}

/** The words of a text, with the blanks between them. */
function words(text) {
  return text.match(/\s+|[^\s]+/g) || [];
}

/** Whether each word of `other` has its place in `text`, by the longest common subsequence. */
function common(text, other) {
  const one = words(text).filter(word => word.trim()), two = words(other);
  const kept = two.map(word => !word.trim());
  if (one.length > LONGEST_MARKED || two.length > 2 * LONGEST_MARKED) return kept.fill(true);
  const rows = Array.from({ length: one.length + 1 }, () => new Uint16Array(two.length + 1));
  for (let i = one.length - 1; i >= 0; i--)
    for (let j = two.length - 1; j >= 0; j--)
      rows[i][j] = one[i] === two[j] ? rows[i + 1][j + 1] + 1 : Math.max(rows[i + 1][j], rows[i][j + 1]);
  for (let i = 0, j = 0; i < one.length && j < two.length;) {
    if (one[i] === two[j]) { kept[j++] = true; i++; } else if (rows[i + 1][j] >= rows[i][j + 1]) i++; else j++;
  }
  return kept;
}

/** The samples of one test set: filters, and cards that are made when they come into view. */
class Browser {
  constructor(section) {
    this.section = section;
    this.number = section.dataset.number;
    this.form = section.querySelector(".filters");
    this.list = section.querySelector(".samples");
    this.end = section.querySelector(".end");
    const data = JSON.parse(section.querySelector(".data").textContent);
    Object.assign(this, data);
    this.shown = [];
    this.made = 0;
    const states = new Set(this.samples.flatMap(sample => sample.r.map(reply => reply.s)));
    for (const state of ["right", "wrong", "unclear", "judged", "measured", "unjudged", "error", "absent"])
      if (states.has(state)) this.form.elements.verdict.append(new Option(NAMES[state] || state, state));
    const unusual = new Set(this.samples.flatMap(sample => sample.r.flatMap(reply => reply.u || [])));
    for (const what of [...unusual].sort()) this.form.elements.unusual.append(new Option(what, what));
    this.form.elements.unusual.closest("label").hidden = !unusual.size;
    if (!this.samples.some(sample => sample.r.some(reply => reply.x || "n" in reply)))
      this.form.elements.order.querySelector('[value="value"]').remove();
    const phone = matchMedia("(max-width: 46rem)").matches;
    if (phone) this.form.querySelector(".more").open = false;
    this.restore();
    let waiting;
    this.form.addEventListener("input", event => {
      clearTimeout(waiting);
      waiting = setTimeout(() => this.apply(), event.target.name === "text" ? 120 : 0);
    });
    this.form.addEventListener("submit", event => event.preventDefault());
    this.section.addEventListener("focusin", () => { current = this; });
    this.section.addEventListener("pointerdown", () => { current = this; });
    this.watch = new IntersectionObserver(entries => {
      if (entries.some(entry => entry.isIntersecting)) this.more();
    }, { rootMargin: "1000px" });
    this.apply(false);
  }

  value(name) {
    const field = this.form.elements[name];
    return !field ? "" : field.type === "checkbox" ? (field.checked ? field.value : "") : field.value;
  }

  set(name, value) {
    const field = this.form.elements[name];
    if (!field) return;
    if (field.type === "checkbox") field.checked = value === field.value;
    else if (field.tagName !== "SELECT" || [...field.options].some(option => option.value === value)) field.value = value;
  }

  /** Filters from the address: `#verdict=wrong` of the first test set, `#2.verdict=wrong` of the second. */
  restore() {
    for (const [name, value] of new URLSearchParams(location.hash.slice(1))) {
      const [number, own] = name.includes(".") ? name.split(".") : ["1", name];
      if (number === this.number) this.set(own, value);
    }
  }

  remember() {
    const state = new URLSearchParams(location.hash.slice(1));
    const prefix = this.number === "1" ? "" : `${this.number}.`;
    for (const name of ["text", "run", "verdict", "unusual", "type", "between", "order", "words"]) {
      const value = this.value(name);
      if (value && !(name === "run" && value === "0")) state.set(prefix + name, value);
      else state.delete(prefix + name);
    }
    for (const name of [...state.keys()]) if (name.startsWith("set-")) state.delete(name);
    history.replaceState(null, "", `#${state}`);
  }

  text(sample) {
    if (sample.text === undefined) {
      const said = sample.r.map(reply => [reply.p, reply.p2, reply.e].filter(Boolean).join("\n"));
      sample.text = [sample.q, sample.a, sample.i, this.media[sample.m][0], ...said].join("\n").toLowerCase();
    }
    return sample.text;
  }

  differs(sample, between) {
    const states = sample.r.map(reply => reply.s);
    if (between === "answers") return new Set(sample.r.map(reply => (reply.p ?? "").trim())).size > 1;
    if (between === "verdicts") return new Set(sample.r.map(reply => `${reply.s} ${JSON.stringify(reply.x)}`)).size > 1;
    const run = Number(between.slice(4)), wanted = between.startsWith("only") ? "right" : "wrong";
    return states.every((state, other) => (other === run) === (state === wanted));
  }

  apply(remember = true) {
    const run = Number(this.value("run")) || 0, verdict = this.value("verdict"), between = this.value("between");
    const unusual = this.value("unusual");
    const type = this.value("type"), kind = type ? this.kinds.indexOf(type) : null;
    const text = this.value("text").trim().toLowerCase();
    this.shown = this.samples.filter(sample => (!verdict || sample.r[run].s === verdict)
      && (!unusual || (sample.r[run].u || []).includes(unusual))
      && (kind === null || sample.k === kind)
      && (!between || this.differs(sample, between))
      && (!text || this.text(sample).includes(text)));
    const order = this.value("order");
    const worth = sample => {
      const reply = sample.r[run];
      return reply.x ? Object.values(reply.x)[0] : reply.n ?? Infinity;
    };
    if (order === "value") this.shown.sort((one, other) => worth(one) - worth(other));
    if (order === "long") this.shown.sort((one, other) => (other.r[run].p ?? "").length - (one.r[run].p ?? "").length);
    const total = this.samples.length.toLocaleString("en");
    this.form.querySelector("output").textContent = `${this.shown.length.toLocaleString("en")} of ${total} questions`;
    this.list.replaceChildren();
    this.made = 0;
    this.more();
    if (remember) this.remember();
  }

  /** Make the next cards. */
  more() {
    if (this.made >= this.shown.length) return;
    const made = [];
    for (const sample of this.shown.slice(this.made, this.made + CHUNK)) {
      const last = this.list.lastElementChild;
      const card = last && last.medium === sample.m ? last : this.list.appendChild(this.card(sample.m));
      made.push(card.appendChild(this.sample(sample)));
      this.made++;
    }
    const long = made.flatMap(node => [...node.querySelectorAll(".clamp")])
      .filter(node => node.scrollHeight > node.clientHeight + 1);
    for (const node of long) {
      const button = make("button", "unfold", "show all");
      button.type = "button";
      button.addEventListener("click", () => {
        button.textContent = node.classList.toggle("clamp") ? "show all" : "show less";
      });
      node.after(button);
    }
    this.watch.unobserve(this.end);  // observing anew tells at once whether the end is still near
    this.watch.observe(this.end);
  }

  card(medium) {
    const [name, picture, note] = this.media[medium];
    const card = make("article", "card medium"), head = make("header");
    card.medium = medium;
    head.append(make("code", "text", name));
    card.append(head);
    if (picture !== null) {
      const image = make("img"), [source, width, height] = this.pictures[picture];
      Object.assign(image, { alt: `what ${name} shows`, width, height, src: source });
      card.append(image);
    } else if (note) card.append(make("p", "small", `no frames: ${note}`));
    return card;
  }

  sample(sample) {
    const node = make("section", "sample");
    node.tabIndex = -1;
    node.setAttribute("aria-label", `question ${sample.i}`);
    const ask = make("div", "ask"), question = make("span", "text clamp", sample.q);
    const box = make("div", "said");
    question.dir = "auto";
    box.append(question);
    ask.append(box, make("small", "", sample.k === null ? "" : this.kinds[sample.k]));
    const reference = make("div", "small reference");
    const answer = make("span", "text clamp", sample.a);
    answer.dir = "auto";
    reference.append(make("span", "", "reference:"), answer);
    node.append(ask, reference, ...sample.r.map((reply, run) => this.reply(sample, reply, run)));
    return node;
  }

  reply(sample, reply, run) {
    const row = make("div", "reply"), who = make("span", "who"), badges = make("span", "badges"), said = make("div", "said");
    who.append(make("span", `chip run${run % 8}`, letter(run)), ` ${this.runs[run]}`);
    const points = "n" in reply ? ` · ${reply.n}` : "";
    if (reply.s !== "measured") badges.append(make("span", `badge ${reply.s}`, (SIGNS[reply.s] || "") + (NAMES[reply.s] || reply.s) + points));
    for (const [name, value] of Object.entries(reply.x || {})) badges.append(make("span", "badge", `${name} ${value.toFixed(1)}`));
    for (const [asked, text] of [[null, reply.p], [reply.q2, reply.p2]]) {
      if (text === undefined) continue;
      if (asked) said.append(make("small", "text", asked));
      said.append(text ? this.answer(sample, text, run, asked) : make("small", "", "(empty answer)"));
    }
    if (reply.more) said.append(make("small", "", `and ${reply.more.toLocaleString("en")} more characters, in the files of the run`));
    if (reply.u) said.append(make("small", "", reply.u.join(", ")));
    if (reply.e) said.append(make("small", "text", reply.e));
    row.append(who, badges, said);
    return row;
  }

  answer(sample, text, run, second) {
    const node = make("div", "text clamp");
    node.dir = "auto";
    const first = second ? sample.r[0].p2 : sample.r[0].p;
    if (!run || !first || !this.value("words")) {
      node.textContent = text;
      return node;
    }
    const kept = common(first, text);
    words(text).forEach((word, place) => node.append(kept[place] ? word : make("mark", "", word)));
    return node;
  }

  /** Move the focus to the next or previous question. */
  step(by) {
    const all = [...this.list.querySelectorAll(".sample")];
    const place = all.indexOf(document.activeElement.closest?.(".sample"));
    let next = place + by;
    if (place < 0) next = Math.max(0, all.findIndex(node => node.getBoundingClientRect().bottom > 160));
    if (next >= all.length) { this.more(); return this.made > all.length ? this.step(by) : undefined; }
    if (next < 0) return undefined;
    all[next].focus({ preventScroll: true });
    all[next].scrollIntoView({ block: "start", behavior: "instant" });
    return undefined;
  }

  toggle(name, value) {
    this.set(name, this.value(name) === value ? "" : value);
    this.apply();
  }
}

let current;
const browsers = [...document.querySelectorAll(".group")].map(section => new Browser(section));
current = browsers[0];

function theme() {
  const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const now = root.dataset.theme || (dark ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
}

const dialog = document.getElementById("keys");
const KEYS = {
  j: () => current.step(1),
  k: () => current.step(-1),
  "/": () => current.form.elements.text.focus(),
  w: () => current.toggle("verdict", "wrong"),
  d: () => current.toggle("between", "verdicts"),
  r: () => { current.set("run", String(((Number(current.value("run")) || 0) + 1) % current.runs.length)); current.apply(); },
  e: () => {
    const sample = document.activeElement.closest?.(".sample");
    for (const button of sample ? sample.querySelectorAll(".unfold") : []) button.click();
  },
  x: () => { current.form.reset(); current.apply(); },
  t: theme,
  "?": () => dialog.showModal(),
};
document.getElementById("theme").addEventListener("click", theme);
document.getElementById("help").addEventListener("click", () => dialog.showModal());
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || dialog.open) return;
  if (event.target.closest("input, select, textarea")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const action = KEYS[event.key];
  if (!action) return;
  event.preventDefault();
  action();
});
