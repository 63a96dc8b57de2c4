from niwaki.distillation.train import distill as distill
from niwaki.evaluation.harness import run_tasks as run_tasks
from niwaki.evaluation.loss import held_out_loss as held_out_loss
from niwaki.evaluation.speed import measure_speed as measure_speed
from niwaki.ground.model import load_model as load_model
from niwaki.masks.apply import apply_mask as apply_mask
from niwaki.masks.learn import learn_masks as learn_masks
from niwaki.masks.oneshot import one_shot as one_shot
from niwaki.pruning.architecture import candidates as candidates
from niwaki.pruning.choose import choose as choose
from niwaki.pruning.memory_cut import cut_model as cut_model
from niwaki.pruning.score import score as score
from niwaki.pruning.select import select as select
from niwaki.pruning.trim import trim as trim
from niwaki.reporting.compress_page import write_report as write_report
from niwaki.rl.train import train_rl as train_rl
from niwaki.rl.warmup import warm_up as warm_up

__version__: str
