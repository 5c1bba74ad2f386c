# A student of a quarter of MiniLM's channels inside of its blocks, with its
# embeddings; on a CPU in minutes. What a linear classifier tells of Banking77's
# intents by the student's features is measured at the end.
_base_ = ['../_base_/wikitext2_text.py', '../_base_/schedule_text_adamw.py']
custom_imports = dict(imports='mmkd')
model = dict(
    type='mmkd.MobileBertTransfer',
    student=dict(
        type='mmkd.MobileBertModel',
        name={{_base_.tokenizer}},
        max_tokens=64,
        pad_to_max=False,
        structure=dict(
            hidden_size=384,
            num_hidden_layers=6,
            num_attention_heads=12,
            intra_bottleneck_size=96,
            intermediate_size=384,
            num_feedforward_networks=4,
            embedding_size=384,
            trigram_input=False,
        ),
    ),
    teacher={{_base_.tokenizer}},
    schedule='progressive',
)
custom_hooks = [
    dict(type='mmkd.TransferHook'),
    dict(
        type='mmkd.LinearProbeHook',
        train='data/text/banking77/train.tsv',
        val='data/text/banking77/val.tsv',
    ),
]
