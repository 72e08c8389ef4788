// What tools/pages.py asks a page in the browser. It is put into every page before the page's scripts.
window.course = {
  // What a reader would see, once the mathematics stands.
  async seen() {
    if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
    await document.fonts.ready;
    const all = (selector, under = document) => [...under.querySelectorAll(selector)];
    const visible = (document.querySelector("article, main") || document.body).cloneNode(true);
    all("pre, code, script, style, mjx-container", visible).forEach(e => e.remove());
    const loaded = ["navigation", "resource"].flatMap(kind => performance.getEntriesByType(kind));
    const explore = document.getElementById("explore");
    return {
      title: document.title,
      wide: document.documentElement.scrollWidth - window.innerWidth,
      loaded: loaded.map(entry => [new URL(entry.name).pathname, entry.decodedBodySize]),
      formulas: all(".math").length,
      rendered: all(".math mjx-container").length,
      errors: all("mjx-merror, [data-mjx-error]").map(e => e.textContent),
      raw: visible.textContent.match(/\$[^$\n]+\$|\\\(|\\\[|\{\{|:::|```|\{[a-z-]+\}`/g) || [],
      images: all("img").map(e => (
        {source: e.getAttribute("src"), alt: e.alt, complete: e.complete, width: e.naturalWidth})),
      colab: all("a[href*='colab.research']").map(e => e.href),
      explore: explore && all("img", explore).length,
      unfolded: all(".tag_solution pre").filter(e => this.visible(e)).map(e => e.textContent),
      uncopied: all(".cell_input pre").filter(e => !e.parentElement.querySelector(".copybtn")).length,
      mouse: this.mouse(),
    };
  },

  visible(e) {
    return e.checkVisibility({visibilityProperty: true}) && e.getBoundingClientRect().height > 0;
  },

  // Code of solutions that is not to be seen: none, once everything folded is open.
  unshown() {
    return [...document.querySelectorAll(".tag_solution pre")]
      .filter(e => !this.visible(e) || !e.innerText.trim()).map(e => e.textContent.slice(0, 100));
  },

  // A button that copies a cell of code.
  copying() {
    return [...document.querySelectorAll(".cell_input button.copybtn")].find(this.visible);
  },

  // Elements that answer to a mouse and to nothing else.
  mouse() {
    const stop = "a[href], button, summary, input, select, textarea, [tabindex]";
    const reached = e => e && (e.tabIndex >= 0 || e.type === "radio");
    const pointer = e => getComputedStyle(e).cursor === "pointer";
    return [...document.querySelectorAll("body *")]
      .filter(e => pointer(e) && !pointer(e.parentElement))
      .filter(e => !reached(e.closest(stop)) && !reached(e.querySelector(stop)))
      .filter(e => !e.closest("label"))
      .map(e => e.outerHTML.slice(0, 100));
  },

  // What a narrow window shows badly: what sticks out and cannot be scrolled to, and tiny text.
  narrow() {
    const main = document.querySelector("main") || document.body;
    const scrolls = e => ["auto", "scroll"].includes(getComputedStyle(e).overflowX);
    const cut = e => {
      const box = e.getBoundingClientRect();
      if (!box.width || !box.height || box.right < window.innerWidth + 1) return false;
      if (e.closest(".bd-sidebar-secondary, mjx-assistive-mml")) return false;
      for (e = e.parentElement; e; e = e.parentElement) if (scrolls(e)) return false;
      return true;
    };
    const text = [...main.querySelectorAll("p, li, td, th, pre, figcaption")];
    return {
      broken: this.broken(main),
      wide: document.documentElement.scrollWidth - window.innerWidth,
      cut: [...main.querySelectorAll("*")].filter(cut).map(e => e.outerHTML.slice(0, 100)),
      tiny: text.filter(e => parseFloat(getComputedStyle(e).fontSize) < 12)
        .map(e => e.outerHTML.slice(0, 100)),
    };
  },

  // Words and numbers in tables that go on in the next line, because their column is too narrow for them.
  broken(main) {
    const found = [], range = document.createRange();
    for (const table of main.querySelectorAll("table")) {
      const walk = document.createTreeWalker(table, NodeFilter.SHOW_TEXT);
      while (walk.nextNode()) {
        for (const word of walk.currentNode.data.matchAll(/[\p{Script=Latin}\d]{2,}/gu)) {
          range.setStart(walk.currentNode, word.index);
          range.setEnd(walk.currentNode, word.index + word[0].length);
          if (range.getClientRects().length > 1) found.push(word[0]);
        }
      }
    }
    return found;
  },

  // What a reader unfolds: elements that take the keyboard's focus and open something.
  folds() {
    const main = document.querySelector("main") || document.body;
    return [...main.querySelectorAll("details > summary, .dropdown > .admonition-title")]
      .map(e => e.matches("summary") ? e : e.querySelector("button") || e);
  },

  opened(fold) {
    const content = (fold.closest(".admonition-title") || fold).nextElementSibling;
    return !content || content.checkVisibility({visibilityProperty: true});
  },

  // Give an element the focus as the Tab key does; say whether it took it and shows it.
  focus(e) {
    const look = () => [e, ...e.querySelectorAll("*")].map(one => {
      const {outlineStyle, outlineWidth, boxShadow, opacity} = getComputedStyle(one);
      return [outlineStyle, outlineStyle === "none" || outlineWidth, boxShadow, opacity].join();
    }).join();
    document.activeElement.blur();
    const before = look();
    e.focus({focusVisible: true});
    return {reached: document.activeElement === e, shown: look() !== before};
  },

  // One of each kind of thing that takes the focus, if the page has it.
  stops() {
    const visible = e => e.checkVisibility({visibilityProperty: true});
    const kinds = [".bd-links a", ".bd-links summary", "article a", "button.copybtn",
      "button.theme-switch-button", "button.search-button", ".prev-next-area a"];
    return kinds.map(kind => [...document.querySelectorAll(kind)].find(visible))
      .filter(e => e);
  },

  // Leave out what repeats, for axe-core needs many seconds for thousands of equal elements: of
  // code one word of each colour stays, of a table two rows, one formula, one copy button.
  thin() {
    const drop = (selector, kept) =>
      [...document.querySelectorAll(selector)].slice(kept).forEach(e => e.remove());
    const known = new Set();
    for (const word of document.querySelectorAll(".highlight span")) {
      if (word.children.length) continue;
      if (known.has(word.className)) word.replaceWith(word.textContent);
      known.add(word.className);
    }
    document.querySelectorAll(".highlight").forEach(e => e.normalize());
    drop(".highlight:not(:has(span[class]))", 1);
    document.querySelectorAll("tbody").forEach(e => [...e.rows].slice(2).forEach(r => r.remove()));
    drop("mjx-container", 1);
    drop("button.copybtn", 1);
  },

  // What axe-core objects to, in the colours of the moment.
  async barriers(options) {
    const found = await axe.run(document,
      {resultTypes: ["violations"], preload: false, ...options});
    return found.violations.map(({id, impact, help, nodes}) =>
      ({id, impact, help, count: nodes.length, first: nodes[0].html.slice(0, 200)}));
  },
};
