"""The ``mmkd`` scope of mmengine's root registries."""

from mmengine import registry as root

# `locations` are imported at the first look-up of an `mmkd.*` name, which is
# what keeps `import mmkd` light.  The leaves listed here import their host
# library when they build something, not before.
MODELS = root.Registry(
    'model',
    parent=root.MODELS,
    scope='mmkd',
    locations=[
        'mmkd.distill',
        'mmkd.losses',
        'mmkd.adapters',
        'mmkd.det',
        'mmkd.seg',
    ],
)
HOOKS = root.Registry('hook', parent=root.HOOKS, scope='mmkd', locations=['mmkd.hooks'])
