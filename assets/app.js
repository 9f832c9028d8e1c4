// The page's own widgets. Each draws one block from a plain value that Python sends; all text goes
// in by textContent. Colours are CSS variables, so plots follow light, dark and the projector.
window.slug = (() => {
  const painted = new Map();           // plot element -> how to paint it again
  const values = {};                   // block -> what it shows now
  const again = {};                    // block -> how to draw it again
  const hooks = {};                    // block -> what another file does after it was drawn
  const held = () => (values.pin?.layer ? values.pin : null);   // the view that is pinned as A
  const calm = () => matchMedia('(prefers-reduced-motion: reduce)').matches;
  const percent = (x) => (x > 0 && x < 0.005 ? '<1 %' : `${Math.round(100 * x)} %`);

  const count = (n) => (n === 1 ? '1 picture' : `${n} pictures`);

  function make(tag, attributes = {}, ...children) {
    const node = document.createElement(tag);
    for (const [key, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false) continue;
      if (key === 'on') node.addEventListener('click', value);
      else if (key === 'style') Object.entries(value).forEach(([k, v]) => node.style.setProperty(k, v));
      else node.setAttribute(key, value === true ? '' : value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }

  // ---- plots
  function coloured(value) {
    const css = getComputedStyle(document.body);
    const walk = (part) => {
      if (typeof part === 'string' && part.startsWith('--')) return css.getPropertyValue(part).trim() || '#888';
      if (Array.isArray(part)) return part.map(walk);
      if (part && typeof part === 'object') return Object.fromEntries(Object.entries(part).map(([k, v]) => [k, walk(v)]));
      return part;
    };
    return walk(value);
  }
  const stage = () => document.body.classList.contains('stage');
  function larger(figure) {
    if (!stage()) return figure;
    const grow = (part) => {
      if (Array.isArray(part)) return part.map(grow);
      if (!part || typeof part !== 'object') return part;
      return Object.fromEntries(Object.entries(part).map(([k, v]) => [k,
        k === 'size' && typeof v === 'number' ? v * 1.35 : k === 'width' && typeof v === 'number' ? v * 1.5 : grow(v)]));
    };
    const grown = grow(figure);
    const margin = grown.layout.margin;
    if (margin) Object.assign(margin, {l: margin.l * 1.3, b: margin.b * 1.3, t: margin.t * 1.3, r: margin.r * 1.5});
    return grown;
  }
  function plot(box, figure, label, pick) {
    const config = {responsive: true, displayModeBar: false, showSendToCloud: false, displaylogo: false};
    box.setAttribute('aria-label', label);
    const paint = () => {
      if (!window.Plotly || !slug.fit) { setTimeout(paint, 60); return; }
      const ready = slug.fit(larger(coloured(figure)), box);
      const hand = box.nextElementSibling;
      if (hand?.matches('.hand')) hand.style.padding = `0 ${ready.layout.margin.r - 8}px 0 ${ready.layout.margin.l - 8}px`;
      Plotly.react(box, ready.data, ready.layout, config).then(() => {
        if (box.clientWidth && Math.abs(box.clientWidth - box._fullLayout.width) > 1) Plotly.Plots.resize(box);
        if (!box.heard) { box.heard = true; box.on('plotly_click', (event) => box.pick(event)); }
      });
    };
    box.pick = pick;
    painted.set(box, paint);
    paint();
  }
  const repaint = () => painted.forEach((paint) => paint());
  let resized = 0;
  window.addEventListener('resize', () => { clearTimeout(resized); resized = setTimeout(repaint, 150); });

  // ---- dialogs
  function dialog(title, ...content) {
    const close = make('button', {class: 'plain', 'aria-label': 'Close', on: () => box.close()}, '✕');
    const box = make('dialog', {class: 'slug-dialog', 'aria-label': title},
      make('header', {}, make('h2', {}, title), close), make('div', {class: 'inside'}, ...content));
    box.addEventListener('close', () => box.remove());
    box.addEventListener('click', (event) => { if (event.target === box) box.close(); });
    (document.querySelector('.gradio-container') || document.body).append(box);
    box.showModal();
    return box;
  }
  function table(head, rows, pick) {
    const lines = rows.map((cells) => make('tr', {}, ...cells.map((cell, i) => {
      if (i || !pick) return make('td', {}, String(cell));
      return make('td', {}, make('button', {class: 'link', on: () => pick(cells)}, String(cell)));
    })));
    return make('table', {}, make('thead', {}, make('tr', {}, ...head.map((title) => make('th', {scope: 'col'}, title)))),
      make('tbody', {}, ...lines));
  }
  function save(name, rows) {
    const quoted = rows.map((row) => row.map((cell) => `"${String(cell).replaceAll('"', '""')}"`).join(','));
    const link = make('a', {href: URL.createObjectURL(new Blob([quoted.join('\n')], {type: 'text/csv'})), download: name});
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
  const small = (text, label, on) => make('button', {class: 'small', type: 'button', title: label, 'aria-label': text === label ? null : `${text}: ${label}`, on}, text);

  // ---- blocks
  const draw = {};
  const LOOKS = ['view', 'sort', 'columns', 'panel', 'published', 'embed', '__theme'];   // what of a link the server need not know

  draw.status = (body, value) => {
    const share = value.share;
    const busy = value.tone === 'busy';
    body.replaceChildren(
      make('span', {class: `dot ${value.tone}`, 'aria-hidden': 'true'}),
      make('span', {class: 'said', role: 'status', title: value.text}, value.text), more(value.more || value.text),
      make('span', {class: `meter ${share === null ? 'none' : ''}`, 'aria-hidden': 'true'},
        make('i', {style: {width: `${100 * (share ?? 0)}%`}})));
    const said = body.querySelector('.said');
    body.querySelector('.more').hidden = !value.more && said.scrollHeight <= said.clientHeight + 1;
    document.body.classList.toggle('busy', busy);
    if (value.query !== undefined && value.query !== null) {
      const query = new URLSearchParams(value.query);
      new URLSearchParams(location.search).forEach((kept, key) => { if (LOOKS.includes(key)) query.set(key, kept); });
      history.replaceState(null, '', `?${query}`);
      if (hub()) window.parent.postMessage({queryString: `?${value.query}`, hash: ''}, HUB);
    }
  };

  const more = (text) => make('button', {class: 'more', 'aria-label': 'more: read all of it', on: () => dialog('What was found', make('p', {}, text))}, 'more');

  draw.forget = (body, value) => {
    body.replaceChildren(...value.groups.map((group) => make('div', {class: `group ${group.role}`},
      make('h3', {}, make('span', {}, group.title), make('small', {}, count(group.count))),
      make('ul', {class: 'thumbs'}, ...group.pictures.map((picture) =>
        make('li', {}, make('img', {src: picture.src, alt: picture.alt, title: picture.alt})))))),
      ...(value.note ? [make('small', {class: 'note'}, value.note)] : []));
  };

  draw.map = (body, value, call) => {
    let box = body.querySelector('.plot');
    if (!box) {
      box = make('div', {class: 'plot', tabindex: '0', role: 'img'});
      body.append(box, make('div', {class: 'strip', role: 'group', 'aria-label': 'One slot for each layer'}));
      box.addEventListener('keydown', (event) => walk(event, body));
    }
    body.value = value;
    body.choose = (layer) => call.layer({layer});
    body.turn = (data) => call.turn(data);
    plot(box, scaled(marked(value)), value.described, (event) => {
      const data = event.points[0].customdata;
      if (data) call.layer({layer: data[0]});
    });
    strip(body, value, call);
    hooks.map?.(body, value);
  };
  // The same figure on linear axes, when that is wanted.
  let scale = 'log';
  function scaled(figure) {
    if (scale === 'log') return figure;
    const layout = Object.fromEntries(Object.entries(figure.layout).map(([key, axis]) => {
      if (!/^[xy]axis/.test(key) || axis.type !== 'log') return [key, axis];
      const {range, dtick, exponentformat, ...rest} = axis;
      return [key, {...rest, type: 'linear', rangemode: 'tozero', nticks: 5}];
    }));
    return {...figure, layout};
  }
  function axes() {
    const value = values.map;
    if (!value) return;
    const choice = (title, note, now, options, on) => make('fieldset', {}, make('legend', {}, title, ' ', make('small', {}, note)),
      ...options.map((option) => { const dot = make('input', {type: 'radio', name: title, checked: option === now}); dot.addEventListener('change', () => { on(option); box.close(); }); return make('label', {}, dot, ' ', option); }));
    const body = document.querySelector('#map .body');
    const box = dialog('How the layers are drawn',
      choice('Alignment', 'which one the front minimises', value.alignment, ['absolute', 'signed'], (alignment) => body.turn({alignment, granularity: value.granularity})),
      choice('Scale', 'of both axes', scale, ['log', 'linear'], (chosen) => { scale = chosen; again.map(); }),
      choice('Layer', 'one tensor, or the two matrices of an MLP together', value.granularity, ['tensor', 'group'], (granularity) => body.turn({alignment: value.alignment, granularity})));
  }
  // The scatter with letters on layers: A is pinned, ? was guessed.
  function marked(value) {
    const spots = [[held()?.layer, 'A'], [values.guess, '?']].filter(([layer]) => layer);
    const extra = spots.flatMap(([layer, text]) => {
      const trace = value.figure.data.find((drawn) => drawn.customdata?.some((row) => row[0] === layer));
      if (!trace) return [];
      const at = trace.customdata.findIndex((row) => row[0] === layer);
      return [{type: 'scatter', mode: 'markers+text', x: [trace.x[at]], y: [trace.y[at]], xaxis: trace.xaxis, yaxis: trace.yaxis, text: [`<b>${text}</b>`],
        textposition: 'middle right', textfont: {size: 14, color: '--ink'}, hoverinfo: 'skip', customdata: [trace.customdata[at]], cliponaxis: false,
        marker: {symbol: 'square-open', size: 17, color: '--ink', line: {width: 2}}, showlegend: false}];
    });
    return {...value.figure, data: [...value.figure.data, ...extra]};
  }
  function walk(event, body) {
    const way = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    if (!way) return;
    event.preventDefault();
    const front = body.value.front;
    const at = front.indexOf(body.value.selected);
    body.choose(front[(at + way + front.length) % front.length]);
  }
  function strip(body, value, call) {
    const towers = [...new Set(value.rows.map((row) => row.tower))].sort();
    body.querySelector('.strip').replaceChildren(...towers.map((tower) => {
      const rows = value.rows.filter((row) => row.tower === tower);
      return make('div', {class: 'slots'}, make('span', {class: 'label'}, tower), make('div', {class: 'row'}, ...rows.map((row) => {
        const chosen = row.layer === value.selected;
        const why = row.reads ? '' : `; ${row.why}`;
        return make('button', {
          class: `slot ${row.front ? 'front' : ''} ${chosen ? 'chosen' : ''}`, disabled: !row.reads,
          title: `${tower} ${row.name}: importance ${row.importance.toPrecision(3)}, alignment ${row.alignment.toFixed(3)}${why}`,
          'aria-label': `${tower} ${row.name}${row.front ? ', on the front' : ''}${why}`, 'aria-pressed': String(chosen),
          tabindex: chosen ? '0' : '-1', style: {'--level': Math.sqrt(row.level)},
          on: () => call.layer({layer: row.layer}),
        }, make('i', {}));
      })));
    }));
    body.querySelectorAll('.row').forEach((row) => row.onkeydown = (event) => {
      const way = {ArrowRight: 'nextElementSibling', ArrowLeft: 'previousElementSibling'}[event.key];
      if (way && document.activeElement[way]) { event.preventDefault(); document.activeElement[way].focus(); }
    });
  }
  function layers() {
    const body = document.querySelector('#map .body');
    if (!body || !body.value) return;
    const head = ['layer', 'tower', 'importance', 'alignment', 'shape', 'front'];
    const rows = body.value.rows.map((row) => [row.name, row.tower, row.importance.toPrecision(4), row.alignment.toFixed(4),
      row.shape, row.front ? 'yes' : row.why, row.layer]);
    const box = dialog('Every layer', make('p', {}, body.value.described),
      make('p', {}, small('Save as CSV', 'Save the table as CSV', () => save('layers.csv', [[...head, 'tensor'], ...rows])),
        ...slug.acts.figure('map')),
      table(head, rows.map((row) => row.slice(0, 6)), (cells) => {
        const row = rows.find((other) => other[0] === cells[0] && other[1] === cells[1]);
        body.choose(row[6]);
        box.close();
      }));
  }

  draw.curve = (body, value, call) => {
    let box = body.querySelector('.plot');
    if (!box) {
      box = make('div', {class: 'plot', role: 'img'});
      const hand = make('input', {type: 'range', min: 0, step: 0.005, id: 'step', 'aria-label': 'Strength'});
      hand.addEventListener('input', () => {
        body.querySelector('.at').textContent = (+hand.value).toFixed(3);
        if (box.layout) Plotly.relayout(box, {'shapes[0].x0': 100 * hand.value, 'shapes[0].x1': 100 * hand.value});
      });
      hand.addEventListener('change', () => call.step({step: +hand.value}));
      body.append(box, make('div', {class: 'hand'}, hand), make('p', {class: 'formula'}, make('span', {}, 'strength '), make('b', {class: 'at'}), make('span', {class: 'rest'})));
    }
    const hand = body.querySelector('#step');
    body.value = value;
    hand.max = value.farthest;
    hand.step = value.farthest / 200;
    hand.setAttribute('aria-label', `Strength, share ${value.unit}`);
    if (document.activeElement !== hand || hand.dataset.from !== String(value.step)) hand.value = value.step;
    hand.dataset.from = String(value.step);
    plot(box, beside(value.figure), value.described, (event) => call.step({step: event.points[0].customdata[1]}));
    body.querySelector('.at').textContent = value.step.toFixed(3);
    body.querySelector('.rest').textContent = `   ${value.formula}`;
  };
  // The curve with that of A behind it, thin and dotted.
  function beside(figure) {
    const a = held();
    if (!a) return figure;
    const lines = a.curve.filter((line) => line.mode === 'lines+markers').map((line) => ({...line, mode: 'lines', opacity: 0.75,
      line: {...line.line, width: 1.5, dash: 'dot'}, name: `A ${line.name}`, hoverinfo: 'skip', hovertemplate: null}));
    const upright = {...figure.layout.shapes[0], x0: 100 * a.step, x1: 100 * a.step, line: {color: '--ink', width: 1.5, dash: 'dot'}};
    const note = {x: 100 * a.step, y: 1, yref: 'paper', yanchor: 'top', xanchor: 'left', text: '<b>A</b>', showarrow: false, font: {size: 12, color: '--ink'}};
    return {data: [...lines, ...figure.data], layout: {...figure.layout, shapes: [...figure.layout.shapes, upright], annotations: [...figure.layout.annotations, note]}};
  }
  function sum() {
    const value = values.curve;
    if (!value) return;
    dialog('The formula with its numbers', table(['what', 'formula', 'here'], value.sum));
  }
  function points() {
    const body = document.querySelector('#curve .body');
    if (!body || !body.value) return;
    const head = ['step', 'of the concept', 'of everything else'];
    dialog('Along the step', make('p', {}, body.value.described),
      make('p', {}, small('Save as CSV', 'Save the table as CSV', () => save('steps.csv', [head, ...body.value.rows])),
        ...slug.acts.figure('curve')),
      table(head, body.value.rows));
  }

  let asked = 0;
  draw.comparison = (body, value) => {
    if (value.asked <= asked) return;
    asked = value.asked;
    const bar = (side, [share, low, high, n]) => make('td', {}, make('span', {class: `range ${side}`, role: 'img',
      'aria-label': `${percent(share)}, 95 % interval ${percent(low)} to ${percent(high)}, ${n} pictures`},
      make('i', {style: {width: `${100 * share}%`}}), make('u', {style: {left: `${100 * low}%`, width: `${100 * (high - low)}%`}})),
      make('b', {}, percent(share)));
    const rows = value.rows.map((row) => make('tr', {class: row.own ? 'ours' : ''},
      make('th', {scope: 'row'}, row.name, make('small', {}, row.where)), bar('forget', row.forget), bar('retain', row.retain)));
    const plain = value.rows.map((row) => [row.name, row.where, ...row.forget, ...row.retain]);
    const head = ['control', 'where', ...['forget', 'retain'].flatMap((side) => [side, `${side} low`, `${side} high`, `${side} n`])];
    dialog('Controls: is that better than chance?',
      make('p', {}, `What is left of “${value.concept}” and of everything else, on the same pictures with the same judge; whiskers are 95 % intervals.`),
      make('table', {class: 'compare'}, make('thead', {}, make('tr', {}, ...['', value.concept, 'everything else'].map((title) => make('th', {scope: 'col'}, title)))), make('tbody', {}, ...rows)),
      make('p', {}, small('Save as CSV', 'Save the table as CSV', () => save('controls.csv', [head, ...plain]))));
  };

  draw.ladder = (body, value, call) => {
    const near = nearest(value.steps, value.step);
    const head = value.steps.map((step) => make('button', {class: `rung ${step === near ? 'chosen' : ''}`,
      'aria-label': `${step ? percent(step) : 'before'}: go to this step`, 'aria-pressed': String(step === near), on: () => call.step({step})}, step ? percent(step) : 'before'));
    const a = held()?.kind === value.kind ? held() : null;
    const third = a ? value.steps.indexOf(nearest(value.steps, a.step)) : -1;
    const rows = value.rows.flatMap((row, i) => [
      make('div', {class: `who ${row.role === 'target' ? 'forget' : 'retain'} ${row.src ? 'shown' : ''}`},
        row.src ? make('img', {src: row.src, alt: ''}) : null, make('b', {}, row.name), make('small', {}, row.role)),
      ...row.cells.map((cell, at) => rung(row, cell, value.steps[at] === near)),
      ...(a ? [a.ladder[i] ? rung(a.ladder[i], a.ladder[i].cells[third], false) : make('span')] : []),
    ]);
    body.replaceChildren(make('div', {class: `rungs ${value.kind}`, role: 'group', 'aria-label': told(value), style: {'--columns': value.steps.length + (a ? 1 : 0)}},
      make('span', {class: 'corner'}, 'strength'), ...head, ...(a ? [make('b', {class: 'corner held', title: a.name}, 'A')] : []), ...rows));
  };
  const nearest = (steps, at) => steps.reduce((best, step) => (Math.abs(step - at) < Math.abs(best - at) ? step : best), 0);
  const said = (cell) => cell.full ?? cell.text ?? '';
  const told = (value) => value.rows.map((row) => `${row.name}, ${row.role}: ${row.cells.map((cell, i) => `${said(cell) || 'a picture'} at ${percent(value.steps[i])}`).join(', ')}`).join('. ');
  const rungs_rows = (value) => value.rows.map((row) => [row.name, row.role, ...row.cells.map((cell) => `${said(cell)}${cell.share === undefined ? '' : ` ${percent(cell.share)}`}`)]);
  function rungs() {
    const value = values.ladder;
    if (!value) return;
    const head = ['what', 'role', ...value.steps.map((step) => (step ? percent(step) : 'before'))];
    dialog('The ladder in words', make('p', {}, 'What is seen at each step, and how surely; every column starts from the same noise or shows the same picture.'),
      make('p', {}, small('Save as CSV', 'Save the table as CSV', () => save('ladder.csv', [head, ...rungs_rows(value)]))),
      table(head, rungs_rows(value)));
  }
  function rung(row, cell, chosen) {
    const tone = cell.ok ? (row.role === 'target' ? 'forget' : 'retain') : 'gone';
    const words = [cell.text || '', cell.ok || !cell.text || cell.full ? '' : make('i', {'aria-hidden': 'true'}, '→')];
    return make('figure', {class: `cell ${chosen ? 'chosen' : ''} ${tone}`},
      cell.src ? make('img', {src: cell.src, alt: `${row.name}, seen as ${cell.text || 'a picture'}`}) : null,
      cell.bar ? make('span', {class: 'bar', role: 'img', 'aria-label': percent(cell.share)}, make('i', {style: {width: `${100 * cell.share}%`}})) : null,
      make('figcaption', {title: `${said(cell)} ${cell.share === undefined ? '' : percent(cell.share)}`}, make('span', {}, words[0]), words[1]));
  }

  draw.see = (body, value, call) => {
    const looks = value.pictures ? [make('div', {class: 'looks', role: 'group', 'aria-label': 'Pictures to look at'}, ...value.pictures.map((look, i) =>
      make('button', {class: `look ${look.role === 'target' ? 'forget' : 'retain'} ${i === value.chosen ? 'chosen' : ''}`, title: look.alt,
        'aria-label': look.alt, 'aria-pressed': String(i === value.chosen), on: () => call.picture({picture: i})}, make('img', {src: look.src, alt: ''}))))] : [];
    const wide = value.pictures ? make('img', {class: 'big', src: value.pictures[value.chosen].src, alt: value.pictures[value.chosen].alt}) : null;
    const a = held()?.kind === value.kind ? held().see : null;
    if (value.kind === 'zero-shot') body.replaceChildren(...looks, make('div', {class: 'pair'}, wide, bars(value.bars, a)));
    if (value.kind === 'vlm') body.replaceChildren(...looks, make('div', {class: 'pair'}, wide, ...answers(value, a)));
    if (value.kind === 'diffusion') wipe(body, a ? {...value, before: a.after} : value, a ? ['A', 'B'] : ['before', 'after']);
  };
  function bars(rows, a) {
    const third = (name) => a?.bars.find((bar) => bar.name === name);
    return make('div', {class: 'bars'}, make('div', {class: 'legend'}, make('span', {class: 'was'}, 'before'), make('span', {class: 'now'}, 'after'), a ? make('span', {class: 'third'}, 'A') : null),
      ...rows.map((row) => make('div', {class: `line ${row.role}`},
        make('span', {class: 'name', title: row.name}, row.name),
        make('span', {class: 'track', role: 'img', 'aria-label': `before ${percent(row.before)}, after ${percent(row.after)}`},
          make('i', {class: 'was', style: {width: `${100 * row.before}%`}}), make('i', {class: 'now', style: {width: `${100 * row.after}%`}}),
          third(row.name) ? make('u', {title: `A: ${percent(third(row.name).after)}`, style: {left: `${100 * third(row.name).after}%`}}) : null),
        make('span', {class: 'number'}, percent(row.after)))));
  }
  // The conversation so far, gone with the page. Every question is asked alone: the model is taught
  // on single questions, so it hears none of what came before.
  let talk = [];
  function answers(value, a) {
    const shown = value.pictures[value.chosen];
    const now = {question: value.question, answers: value.answers, src: shown.src, alt: shown.alt, model: values.choice?.model};
    const same = (turn) => turn && turn.question === now.question && turn.src === now.src && turn.model === now.model;
    if (same(talk.at(-1))) talk.pop();   // the same question at another step: its answer is put right
    talk = [...talk.filter((turn) => turn.model === now.model), now].slice(-20);
    const bubble = (who, text) => make('p', {class: `bubble ${who}`}, make('small', {}, who), ` ${text || '(says nothing)'}`);
    const asked = (turn) => make('p', {class: 'bubble you'}, make('img', {src: turn.src, alt: turn.alt, title: turn.alt}), turn.question);
    const turns = talk.flatMap((turn) => [...(talk.length > 1 ? [asked(turn)] : []),   // a single question stands in the field
      bubble('before', turn.answers[0]), bubble('after', turn.answers[1]), ...(turn === now && a ? [bubble('A', a.answers[1])] : [])]);
    const clear = small('Clear', 'Clear what was asked before', () => { talk = []; again.see(); });
    const log = make('div', {class: 'talk', role: 'log', tabindex: '0', 'aria-label': 'Questions and answers'}, ...turns);
    requestAnimationFrame(() => { log.scrollTop = log.scrollHeight; });
    return [log, ...(talk.length > 1 ? [make('span', {class: 'clear'}, clear)] : [])];
  }
  function wipe(body, value, names) {
    const old = body.querySelector('.wipe input');
    const at = old ? old.value : 50;
    const side = (which) => make('img', {class: which, src: value[which].src, alt: `${names[which === 'after' ? 1 : 0]}: ${value[which].text || value.prompt}`});
    const slider = make('input', {type: 'range', min: 0, max: 100, value: at, 'aria-label': 'Wipe between before and after'});
    const frame = make('div', {class: 'wipe', style: {'--at': `${at}%`}}, side('after'), side('before'), make('span', {class: 'edge', 'aria-hidden': 'true'}), slider);
    slider.addEventListener('input', () => frame.style.setProperty('--at', `${slider.value}%`));
    const verdict = (which) => make('div', {class: `verdict ${which}`}, make('small', {}, names[which === 'after' ? 1 : 0]),
      value[which].text ? make('b', {}, value[which].text) : null,
      value[which].text ? make('small', {}, `judge ${percent(value[which].share)}`) : null);
    body.replaceChildren(make('div', {class: 'stand'}, verdict('before'), frame, verdict('after')));
  }

  draw.collateral = (body, value) => {
    const a = held()?.collateral;
    const line = (role, name, [before, after, n]) => make('div', {class: `total ${role}`},
      make('span', {class: 'name'}, name), make('b', {}, `${percent(before)} → ${percent(after)}`), make('small', {}, a ? `A ${percent(a[role][1])} · ${count(n)}` : count(n)));
    const rows = value.rows.filter((row) => row.after !== row.before);
    const some = rows.slice(0, value.named);
    const named = some.map((row) => make('li', {title: `${percent(row.before)} → ${percent(row.after)} of ${count(row.n)}`}, make('span', {}, row.name), make('b', {}, row.change)));
    const most = rows.length > some.length ? 'changed; most, in points:' : 'changed, in points:';
    const sentence = rows.length ? `${rows.length} of ${value.others} other concepts ${most}` : `None of the ${value.others} other concepts changed.`;
    body.replaceChildren(
      make('div', {class: 'totals'}, line('forget', value.erased.join(', ') || 'the concept', value.forget), line('retain', 'everything else', value.retain)),
      make('h3', {}, sentence, make('small', {}, make('button', {class: 'more', 'aria-label': 'all: every other concept', on: changes}, 'all'))),
      value.blind ? make('p', {class: 'blind'}, value.blind) : make('ul', {class: 'changes'}, ...named));
  };

  function changes() {
    const head = ['concept', 'before', 'after', 'points', 'pictures'];
    const rows = values.collateral.rows.map((row) => [row.name, percent(row.before), percent(row.after), row.change, row.n]);
    dialog('Every other concept', make('p', {}, 'How much of each is still recognised, zero-shot on pictures that no search has seen; what lost most stands first.'),
      make('p', {}, small('Save as CSV', 'Save the table as CSV', () => save('collateral.csv', [head, ...rows]))), table(head, rows));
  }

  draw.tray = (body, value, call) => {
    const rows = value.rows.map((row, i) => make('span', {class: `chip ${row.on ? 'on' : ''}`},
      make('button', {class: 'switch', role: 'switch', 'aria-checked': String(row.on), 'aria-label': `${row.name} on or off`, title: row.full,
        on: () => call.switch({number: i})}, make('i', {}), row.name),
      make('button', {class: 'name', 'aria-label': `Rename ${row.name}`, title: 'Rename', on: () => rename(row, i, call)}, '✎'),
      make('button', {class: 'drop', 'aria-label': `Take out ${row.name}`, title: 'Take out', on: () => call.drop({number: i})}, '✕')));
    const a = held() ? [make('span', {class: 'chip pinned', title: held().name}, make('b', {}, 'A'), ` ${held().name}`)] : [];
    const empty = a.length ? '' : make('small', {}, 'Keep an edit to erase several concepts together.');
    body.replaceChildren(make('b', {class: 'label'}, 'Tray'), ...a, ...(rows.length ? rows : [empty]), value.note ? make('small', {class: 'note'}, value.note) : '');
  };
  function rename(row, number, call) {
    const field = make('input', {type: 'text', value: row.name, maxlength: 40, 'aria-label': 'New name', id: 'new-name'});
    const form = make('form', {}, field, ' ', make('button', {class: 'small', type: 'submit'}, 'Rename'));
    form.addEventListener('submit', (event) => { event.preventDefault(); call.rename({number, name: field.value}); box.close(); });
    const box = dialog('Rename this edit', make('p', {}, row.full), form);
    field.select();
  }
  draw.pin = () => {
    document.querySelector('#pinned')?.setAttribute('aria-pressed', String(!!held()));
    document.body.classList.toggle('held', !!held());
    ['map', 'curve', 'ladder', 'see', 'collateral', 'tray'].forEach((block) => again[block]?.());
  };
  draw.choices = () => {};
  draw.export = () => {};

  // ---- keys
  const KEYS = [['G', 'guided story'], ['H', 'guess the layer before it is shown'], ['M', 'choose a model'], ['N', 'choose a concept'], ['E', 'choose a method'], ['A', 'pin what is shown as A, or unpin it'], ['Z', 'undo'], ['X', 'take away'], ['W', 'the formula with its numbers'], ['C', 'put controls beside the edit'], ['P', 'projector on or off'], ['←  →', 'in the plot: walk along the front'], ['F', 'find the step'], ['L', 'find layer and step, or run the method'],
    ['B', 'try to bring it back'], ['K', 'keep the edit'], ['S', 'stop'], ['T', 'table of all layers'], ['?', 'this sheet']];
  const help = () => dialog('Keys', table(['key', 'does'], KEYS));
  const press = (id) => { const button = document.querySelector(`#${id}`); (button?.matches('button') ? button : button?.querySelector('button'))?.click(); };
  function project() {
    document.body.classList.toggle('stage');
    setTimeout(repaint, calm() ? 0 : 60);
  }
  const ACTS = {p: project, '?': help, t: layers, f: () => press('find'), l: () => press('find-all'), c: () => press('controls'), g: () => acts.story(), Escape: () => acts.leave(), h: () => acts.guess(), m: () => acts.models(), n: () => acts.concepts(), e: () => acts.methods(), a: () => press('pinned'), z: () => press('undo'), x: () => acts.away(), w: sum, b: () => acts.bring(), k: () => press('keep'), s: () => press('stop')};
  document.addEventListener('keydown', (event) => {
    const typing = event.target.closest?.('input:not([type=range]), textarea, [contenteditable], dialog');
    if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
    const act = ACTS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (act) { event.preventDefault(); act(); }
  });
  const dressed = () => document.body.className.replace(/\bbusy\b/, '').trim();
  let worn = dressed();                // dark, on stage: whatever colours and sizes depend on
  new MutationObserver(() => { if (worn !== dressed()) { worn = dressed(); repaint(); } })
    .observe(document.body, {attributeFilter: ['class'], attributes: true});

  // Until the server says more, the page says that it has heard.
  function waiting() {
    const body = document.querySelector('#status .body');
    if (body && !document.body.classList.contains('busy')) draw.status(body, {text: 'Sent; waiting for its turn…', share: null, tone: 'busy'});
  }
  document.addEventListener('click', (event) => { if (event.target.closest('#find, #find-all, #keep, #controls, #pinned, #undo, #draw')) waiting(); });

  // In a Space the page stands in a frame of the hub, whose address bar is the one that visitors see:
  // it is told what is shown, and the link is one to the Space.
  const HUB = 'https://huggingface.co';
  const hub = () => window.parent !== window && (location.ancestorOrigins?.[0] ?? document.referrer.replace(/\/$/, '')) === HUB;
  function link() {
    const space = document.querySelector('meta[name=space]')?.content;
    return hub() && space ? `${HUB}/spaces/${space}${location.search}` : location.href;
  }

  const acts = {layers, axes, points, changes, rungs, sum, help, project,
    link: () => copy(link(), 'The link to this view is copied.'),
    fetch: () => setTimeout(() => document.querySelector('#status .dot.error') || document.querySelector('#file')?.click(), 250)};
  const say = (text) => draw.status(document.querySelector('#status .body'), {text, share: null, tone: 'calm'});
  async function copy(text, said) {
    try {
      await navigator.clipboard.writeText(text);
      say(said);
    } catch {   // not in every frame, and only over https or on this very machine
      const field = make('textarea', {readonly: true, rows: 4, 'aria-label': 'Text to copy'});
      field.value = text;
      const box = dialog('Copy it from here', make('p', {}, 'This browser does not let the page copy by itself.'), field);
      field.select();
      if (document.execCommand('copy')) { box.close(); say(said); }
    }
  }
  const due = {};                      // block -> what it is to show
  const bodies = {};                   // block -> where it is drawn, and what stands there
  function paint(name) {
    const at = bodies[name];
    if (!at?.body || !draw[name]) { setTimeout(() => paint(name), 40); return; }
    const value = due[name], now = JSON.stringify(value);
    if (now === at.last && name !== 'status') return;
    at.last = now;
    values[name] = value;
    again[name] = () => draw[name](at.body, values[name], slug.calls[name]);
    again[name]();
  }
  function show(news) {
    Object.assign(due, news);
    Object.keys(news).forEach(paint);
  }
  // A block of the page. "updates" is not drawn: it brings what all others show.
  function mount(name, element, props, watch, calls) {
    for (const [key, call] of Object.entries(calls)) calls[key] = (data) => { waiting(); call(data); };
    slug.calls[name] = calls;
    element.querySelectorAll('[data-act]').forEach((button) => button.addEventListener('click', () => acts[button.dataset.act]()));
    if (name === 'updates') {
      const heard = () => show(props.value ?? {});
      watch('value', heard);
      heard();
      return;
    }
    bodies[name] = {body: element.querySelector('.body'), last: ''};
    if (due[name] || props.value) show({[name]: due[name] ?? props.value});
    const wanted = new URLSearchParams(location.search).get('view') === name;  // a link to a view that came before its block
    if (wanted && bodies.choice && values.choice) draw.choice(bodies.choice.body, values.choice);
  }
  return {view: 'erase', mount, plot, acts, calls: {}, draw, hooks, values, again, held, make, dialog, table, small, save, say, copy, percent, count, calm, coloured, rungs_rows};
})();
(window.slugParts ?? []).forEach((part) => part(window.slug));
window.slugParts = {push: (part) => part(window.slug)};
