#!/usr/bin/env bash
# Build the wheel, install it in a clean environment away from the source tree, and use it once.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
.venv/bin/python -m pip -q --disable-pip-version-check wheel --no-deps -w "$work" .
# The packages of .venv serve as the clean environment's dependencies, so that nothing is downloaded twice;
# the project itself comes from the wheel alone.
"${PYTHON:-python3}" -m venv "$work/env"
site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
"$work/env/bin/python" -m pip -q --disable-pip-version-check install --no-deps "$work"/*.whl
target=$("$work/env/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
for entry in "$site"/*; do
  name=$(basename "$entry")
  case "$name" in __editable__*|pointworld*|pip*|setuptools*|_distutils*|distutils*) continue ;; esac
  [ -e "$target/$name" ] || ln -s "$entry" "$target/$name"
done
cd "$work"
"$work/env/bin/python" - <<'PY'
from pathlib import Path

import pointworld
from pointworld.robot import RobotModel

assert "site-packages" in pointworld.__file__, pointworld.__file__
for name in ("fr3", "panda_robotiq", "ur5e_robotiq"):
    robot = RobotModel.load(name)
    assert robot.lower.shape == (len(robot.joint_names),)
model = pointworld.load("tiny")
size = sum(p.stat().st_size for p in Path(pointworld.__file__).parent.rglob("*") if p.is_file())
print(f"wheel works: {sum(p.numel() for p in model.parameters()):,} parameters, {size / 1e6:.1f} MB installed")
PY
"$work/env/bin/pointworld" --help >/dev/null
