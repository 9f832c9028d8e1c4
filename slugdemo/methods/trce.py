import torch
from torch import Tensor
from slugdemo.closed_form import regression
from slugdemo.edit import Edit
from slugdemo.task import Task
from slugdemo.text_projections import Tokens, View, guide, kept, moved, projections, tokens, prompts, last_of

WEIGHTS = (0.0, 1.0, 0.0, 0.0)
PRESERVE, RIDGE = .02, 0.
def trce(task: Task) -> Edit:
    model = task.model
    a = guide(task)
    old, new = prompts(task, task.concept.name), prompts(task, a)
    before, after = model.states(old), model.states(new)
    eo, en = model.ends(old).tolist(), model.ends(new).tolist()
    words = last_of(model, old, task.concept.name)
    S,T,w=[],[],[]
    for i,(o,n) in enumerate(zip(eo,en)):
        length=before.shape[1]
        S += [before[i,0],before[i,o],before[i,-1],before[i,words[i]]]
        T += [after[i,0],after[i,n],after[i,-1],after[i,-1]]
        w += [WEIGHTS[0],WEIGHTS[1],WEIGHTS[2]*(length-o-1),WEIGHTS[3]]
    S,T,w=torch.stack(S),torch.stack(T),torch.tensor(w).double()/len(old)
    rest=kept(task)
    return task.edit(moved(projections(model), lambda v: regression(v(S),v(T),v(rest),ridge=RIDGE,erase=w,preserve=PRESERVE/len(rest)*1)))
