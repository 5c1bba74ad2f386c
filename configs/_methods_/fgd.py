# FGD, `--method fgd`: objects, background, attention and global relation of the
# features, with the authors' weights for anchor-based one-stage detectors. They add the
# levels; ours are averaged, so that five of them make a weight of 5.
mmdet = dict(loss_fgd=dict(type='mmkd.FGDLoss', at='neck', loss_weight=5))
