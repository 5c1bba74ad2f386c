# A text encoder of MobileBERT's blocks, for tools/reproduce.py: what the schedules of
# the transfer are worth beside each other and beside none.
data = 'Texts'
title = "MobileBERT's blocks, 15 million weights <- all-MiniLM-L6-v2, 23 million"
note = (
    'Texts are those of wikitext-2. Accuracy is that of a linear classifier of the '
    "intents of Banking77, which no encoder was trained for, on its features' means; "
    'cosine and error (the norm of the difference by that of the teacher) are of the '
    'tokens of texts that were held out, and so are the squared differences of the '
    'normalised features of every layer. The student alone learned to guess masked '
    'words, at a third of the learning rate, beyond which it diverged, and has nothing '
    "of the teacher. The others begin with the teacher's embeddings: before the first "
    'step (--cfg-options train_cfg.max_iters=1 train_cfg.val_interval=1 '
    'model.schedule=joint optim_wrapper.optimizer.lr=0) the accuracy is 0.893 ± 0.002 '
    'already, which none of them keeps, and the cosine 0.315 ± 0.001. Times of the '
    'first two rows are too long: the machine did more else meanwhile.'
)
task = 'text'
teacher = 'configs/mobilebert/minilm_wikitext2.py'
baseline = 'student alone'
seeds = (0, 1, 2)

_config = 'configs/mobilebert/mobilebert_minilm_wikitext2.py'
# MiniLM has no head for masked words: they are guessed without its say.
# At the rate of the others, 1e-3, blocks without normalisation diverge when nothing
# but words holds them: after 150 to 200 steps.
_words = {
    'model.transfer_iters': 0,
    'model.soft_targets': 0.0,
    'model.copy': (),
    'optim_wrapper.optimizer.lr': 3e-4,
}

rows = {
    'student alone': dict(config=_config, options=_words),
    'auxiliary': dict(
        config=_config,
        options={'model.schedule': 'auxiliary', 'model.soft_targets': 0.0},
    ),
    'joint': dict(config=_config, options={'model.schedule': 'joint'}),
    'progressive': dict(config=_config),
}
stages = dict(main=dict(iterations=900))
