"""tools/train.py on a machine without GPUs: mmengine's launcher selects one."""

import runpy
import sys
from pathlib import Path

import torch

if __name__ == '__main__':
    torch.cuda.set_device = lambda device: None
    tool = Path(__file__).parents[2] / 'tools' / 'train.py'
    sys.argv[0] = str(tool)
    runpy.run_path(str(tool), run_name='__main__')
    # Threads of the process group that outlive the tool can abort it when Python exits.
    names = [path.read_text() for path in Path('/proc/self/task').glob('*/comm')]
    assert not [name for name in names if 'gloo' in name], names
