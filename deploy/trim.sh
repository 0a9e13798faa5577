#!/bin/sh
# Takes out of an environment what no running program reads (tests, type stubs, C headers of numpy), and compiles the rest:
# the root file system of a container is read-only, so nothing could be compiled at run time. Our own code lies beside the
# environment, in /opt/service, and is found through a .pth file.
# usage: trim.sh ENVIRONMENT [PACKAGE-TO-REMOVE]...
set -eu
environment=$1
shift
site=$(echo "$environment"/lib/python3*/site-packages)
for package in "$@"; do rm -rf "${site:?}/$package"; done
# Only test folders of packages that are known not to import them: torch.testing, say, is imported by torch itself.
find "$site/numpy" -type d -name tests -prune -exec rm -rf {} +
rm -rf "$site/numpy/_core/include" "$site/numpy/_core/lib" "$site/numpy/f2py/src"
find "$site" -name '*.pyi' -delete
find "$site" -name __pycache__ -type d -prune -exec rm -rf {} +
echo /opt/service > "$site/inn-service.pth"
# No check of the source's date at each import; a file that does not compile (templates of other versions) stays as it is.
"$environment/bin/python" -m compileall -qq -j 0 --invalidation-mode unchecked-hash "$site" || true
