# CrossKD, `--method crosskd`: the student's head features pass the rest of the
# teacher's head. The authors' weights for GFL; where boxes are deltas box_weight is 1.
mmdet = dict(loss_crosskd=dict(type='mmkd.CrossKDLoss', at='bbox_head', index=3))
