# MiniLM beside itself: the figures that a perfect student has. Nothing is learned.
_base_ = 'mobilebert_minilm_wikitext2.py'
model = dict(
    student=dict(
        _delete_=True,
        type='mmkd.BertModel',
        name={{_base_.tokenizer}},
        max_tokens=64,
        pad_to_max=False,
    ),
    schedule='joint',
)
optim_wrapper = dict(optimizer=dict(lr=0.0))
train_cfg = dict(max_iters=1, val_interval=1)
default_hooks = dict(checkpoint=dict(interval=1), logger=dict(interval=1))
