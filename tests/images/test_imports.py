import subprocess
import sys


def test_pictures_need_no_torch():
    program = (
        "import sys, spatial_ssrl.images; "
        "print(sorted({'torch', 'lightning', 'h5py', 'matplotlib'} & set(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
