# PKD, `--method pkd`: Pearson correlation of the features. The authors add the levels,
# with a weight of 6; ours are averaged, so that five of them make 30.
mmdet = dict(loss_pkd=dict(type='mmkd.PKDLoss', at='neck', loss_weight=30))
