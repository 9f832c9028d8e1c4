// The view Atlas: concepts x layers, who is lost with whom, how sure the choice of a layer is; and
// what came with the app beside what is computed again. All text goes in by textContent.
(window.slugParts ??= []).push((slug) => {
  const {make, draw, acts, dialog, small, save, values, calls, percent} = slug;

  // ---- computed again
  let asked = 0;
  acts.again = () => calls.ladder?.again({});
  draw.again = (body, value) => {
    if (value.asked <= asked) return;
    asked = value.asked;
    const rows = value.rows.map(([what, shipped, now]) => make('tr', {class: shipped === now ? '' : 'differs'},
      make('th', {scope: 'row'}, what), make('td', {}, shipped), make('td', {}, now)));
    const other = value.rows.filter(([, shipped, now]) => shipped !== now).length;
    const code = value.same_code ? 'the same code' : 'code that has changed since';
    dialog(`“${value.concept}” in ${value.model}, computed again`,
      make('p', {}, `${other ? `${other} of ${rows.length} lines differ` : `All ${rows.length} lines are the same`}: what came with the app, and what ${code} found just now in ${Math.round(value.seconds)} s, from new gradients and a new search.`),
      make('table', {class: 'again'}, make('thead', {}, make('tr', {}, ...['', 'shipped', 'now'].map((title) => make('th', {scope: 'col'}, title)))), make('tbody', {}, ...rows)),
      make('p', {}, small('Save as CSV', 'Save the table as CSV', () => save('again.csv', [['what', 'shipped', 'now'], ...value.rows])))).classList.add('wide');
  };

  // ---- concepts x layers
  const TOWERS = {text: 'Text tower', vision: 'Vision tower'};
  function runs(columns, key) {        // neighbours that share a value, as [value, how many]
    return columns.reduce((all, column) => {
      const last = all.at(-1);
      if (last && last[0] === key(column)) last[1] += 1; else all.push([key(column), 1]);
      return all;
    }, []);
  }
  const edge = (columns, i) => (i && columns[i].block !== columns[i - 1].block ? ' edge' : '');
  function heat(value, call) {
    const {layers} = value;
    const span = (cells) => cells.map(([text, wide]) => make('th', {colspan: String(wide), scope: 'colgroup'}, text));
    const top = make('thead', {}, make('tr', {}, make('th', {class: 'corner'}, ''), ...span(runs(layers, (layer) => layer.tower).map(([tower, wide]) => [TOWERS[tower] ?? tower, wide]))),
      make('tr', {class: 'blocks'}, make('th', {class: 'corner'}, 'layer'), ...span(runs(layers, (layer) => `${layer.tower} ${layer.block}`).map(([both, wide]) => [both.split(' ')[1] || '·', wide]))));
    const line = (row) => {
      const most = Math.max(...row.importance);
      const front = new Set(row.front);
      return make('tr', {class: row.concept === value.concept ? 'ours' : ''},
        make('th', {scope: 'row'}, make('button', {class: 'link', 'data-layer': row.layer, title: `${row.concept}: ${percent(row.strength)} of the norm, ${percent(row.left)} left, ${percent(row.kept)} kept`}, row.concept)),
        ...layers.map((layer, i) => make('td', {class: `${layer.layer === row.layer ? 'chosen' : ''}${front.has(i) ? ' front' : ''}${edge(layers, i)}`, 'data-layer': layer.layer,
          style: {'--level': `${Math.round(100 * Math.sqrt(row.importance[i] / most))}%`}, title: `${row.concept}, ${layer.tower} ${layer.name}: importance ${row.importance[i]}, alignment ${row.alignment[i]}${front.has(i) ? ', on the front' : ''}${layer.layer === row.layer ? ', chosen' : ''}`})));
    };
    const sum = make('tr', {class: 'sum'}, make('th', {scope: 'row'}, 'chosen'), ...layers.map((layer, i) => make('td', {class: edge(layers, i), title: `${layer.tower} ${layer.name}: chosen ${layer.chosen} times`}, layer.chosen ? make('span', {}, String(layer.chosen)) : '')));
    const wide = String(layers.length + 1);
    const body = value.groups.filter((group) => group.rows.length).flatMap((group) => [make('tr', {class: 'group'}, make('th', {colspan: wide, scope: 'colgroup'}, group.title)), ...group.rows.map(line)]);
    const box = make('table', {class: 'heat'}, top, make('tbody', {}, ...body, sum));
    box.addEventListener('click', (event) => {
      const cell = event.target.closest('[data-layer]');
      if (!cell) return;
      const concept = cell.closest('tr').querySelector('th button').textContent;
      slug.look('erase');
      call.open({concept, layer: cell.dataset.layer});
    });
    return box;
  }

  // ---- who is lost with whom
  function lost(value) {
    const map = value.lost;
    const shown = map.rows.filter((row) => row.total);
    if (!shown.length) return [make('p', {}, 'Nothing else is lost by any of these edits.')];
    const all = (row) => dialog(`Lost with “${row.concept}”`, make('p', {}, row.all.length ? row.all.join(', ') : 'nothing'));
    const head = make('thead', {}, make('tr', {}, make('th', {class: 'corner', scope: 'col'}, 'erased'), ...map.names.map((name, i) => make('th', {scope: 'col', class: 'tall', title: `${name}: lost ${map.times[i]} times`}, make('span', {}, name)))));
    const rows = shown.map((row) => make('tr', {}, make('th', {scope: 'row'}, make('button', {class: 'link', title: `${row.total} others lost`, on: () => all(row)}, row.concept)),
      ...row.points.map((points, i) => make('td', {style: {'--level': `${-points}%`}, title: points ? `${row.concept} erased: ${map.names[i]} ${points} points` : `${row.concept} erased: ${map.names[i]} kept`}))));
    const quiet = map.rows.length - shown.length;
    return [make('p', {}, `Other concepts of which CLIP recognises fewer held-out pictures once one is erased${map.others > 0 ? `; the ${map.names.length} names lost most often, ${map.others} more in the CSV` : ''}. ${quiet ? `${quiet} of the edits lose nothing.` : ''}`),
      make('div', {class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Who is lost with whom'}, make('table', {class: 'lost'}, head, make('tbody', {}, ...rows)))];
  }

  // ---- how sure is the choice?
  function choices(value) {
    const rows = value.choices;
    if (!rows.length) return [make('p', {}, 'Not computed for these weights: python -m slugdemo benchmark layers')];
    const config = (row) => rows.find((other) => other.what === 'config' && other.concept === row.concept && other.model === row.model);
    const conditions = [...new Map(rows.filter((row) => !['config', 'way'].includes(row.what)).map((row) => [`${row.what} ${row.value}`, row])).values()];
    const mean = (some, key) => some.reduce((sum, row) => sum + row[key], 0) / Math.max(1, some.length);
    const spread = conditions.map(({what, value: at}) => {
      const some = rows.filter((row) => row.what === what && row.value === at);
      const same = some.filter((row) => row.layer === config(row)?.layer).length;
      return make('tr', {}, make('th', {scope: 'row'}, `${what} ${at}`), make('td', {}, `${same} of ${some.length}`), make('td', {}, percent(mean(some, 'overlap'))), make('td', {}, mean(some, 'rank').toFixed(2)));
    });
    const table = (head, body) => make('table', {class: 'plain'}, make('thead', {}, make('tr', {}, ...head.map((title) => make('th', {scope: 'col'}, title)))), make('tbody', {}, ...body));
    const ways = rows.filter((row) => row.what === 'way').map((row) => make('tr', {}, make('th', {scope: 'row'}, row.concept), make('td', {}, row.value), make('td', {}, row.name || row.note), make('td', {}, row.left === null ? '' : percent(row.left)), make('td', {}, row.kept === null ? '' : percent(row.kept))));
    const names = [...new Set(rows.map((row) => row.concept))].join(', ');
    const models = [...new Set(rows.map((row) => row.model))].join(', ');
    const where = models === value.model ? '' : ` in ${models}, whose CLIP this model carries,`;
    return [make('p', {}, `The most promising layer for ${names}${where} with other gradients: how often it is the same one, how much of the fronts is shared, and the rank correlation of importance.`),
      table(['gradients with', 'same layer', 'same front', 'ranks'], spread),
      make('h3', {}, 'Layer by gradients, by causal tracing, by chance'), table(['concept', 'chosen by', 'layer', 'left', 'kept'], ways)];
  }

  draw.atlas = (body, value, call) => {
    const [there, all] = value.count;
    const part = there < all ? `${there} of ${all} presets have been computed for these weights. ` : '';
    if (!there) { body.replaceChildren(make('p', {class: 'lead'}, `Nothing has been computed beforehand for the weights of ${value.model}. To do so: python -m slugdemo benchmark atlas --models ${value.model}`)); return; }
    body.replaceChildren(
      make('div', {class: 'heats'}, make('p', {class: 'lead'}, `${part}The stronger a cell’s blue, the more its layer matters to the concept. `, make('span', {class: 'key front'}, 'on the front'), make('span', {class: 'key chosen'}, 'chosen by the search'), ' Click a cell to open it.'),
        make('div', {class: 'scroll', tabindex: '0', role: 'region', 'aria-label': 'Concepts and layers'}, heat(value, call))),
      make('div', {class: 'sides', tabindex: '0', role: 'region', 'aria-label': 'What the map says'}, make('p', {class: 'claim'}, value.said),
        make('h3', {}, 'Who is lost with whom'), ...lost(value), make('h3', {}, 'How sure is the layer?'), ...choices(value)));
  };
  acts.atlasTable = () => {
    const value = values.atlas;
    if (!value) return;
    const scores = value.groups.flatMap((group) => group.rows.flatMap((row) => value.layers.map((layer, i) => [value.model, group.title, row.concept, layer.layer, row.importance[i], row.alignment[i], row.front.includes(i) ? 'yes' : '', layer.layer === row.layer ? row.strength : ''])));
    save('atlas.csv', [['model', 'group', 'concept', 'layer', 'importance', 'alignment', 'front', 'chosen step'], ...scores]);
    save('lost.csv', [['erased', 'lost, in points'], ...value.lost.rows.map((row) => [row.concept, row.all.join('; ')])]);
    save('choices.csv', [['model', 'concept', 'what', 'value', 'layer', 'same front', 'ranks', 'step', 'left', 'kept', 'note'], ...value.choices.map((row) => [row.model, row.concept, row.what, row.value, row.layer, row.overlap ?? '', row.rank ?? '', row.strength ?? '', row.left ?? '', row.kept ?? '', row.note])]);
  };
});
