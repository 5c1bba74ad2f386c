# PKD, `--method pkd`: Pearson correlation of the features. The authors add the first
# four levels, each with a weight of 6; ours is of the mean over all there are.
mmdet = dict(loss_pkd=dict(type='mmkd.PKDLoss', at='neck', loss_weight=24))
