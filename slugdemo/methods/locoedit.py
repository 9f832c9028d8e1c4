from slugdemo.closed_form import regression
from slugdemo.edit import Edit
from slugdemo.task import Task
from slugdemo.text_projections import guide, kept, moved, projections, tokens, cross_attention
START, LENGTH, RIDGE = .5, .25, .01
POOL=True
KEEP=False
def locoedit(task: Task) -> Edit:
    pairs = tokens(task, guide(task), many=False)
    every = projections(task.model)
    blocks = list(dict.fromkeys(one.block for one in cross_attention(every)))
    s=int(START*len(blocks)); w=blocks[s:s+max(1,round(LENGTH*len(blocks)))]
    chosen=[o for o in every if o.block in w or (POOL and 'add_emb' in o.block)]
    rest=kept(task)
    if not KEEP: rest=rest[:0]
    return task.edit(moved(chosen, lambda v: regression(v(pairs.sources),v(pairs.targets),v(rest),ridge=RIDGE)))
