# Two images from one file:
#
#   docker build --target hub  -t inn-hub  .     the hub: exports, inference, fleet
#   docker build --target edge -t inn-edge .     an edge node: no torch, no onnx, no models
#
# Wheels in a folder wheels/ beside this file are taken before those of a package index. Put PyTorch's CPU build there
# (or name PyTorch's own index of CPU builds with --build-arg PIP_EXTRA_INDEX_URL=...): otherwise pip takes the CUDA
# build, which works as well and is gigabytes larger. For GPUs: --build-arg HUB_EXTRAS=hub, and no CPU build in wheels/.
# Only instructions that every builder knows are used, so docker-compose 1.29 can build it, too.
ARG BASE=python:3.11-slim-bookworm

# --- what everything is made with; nothing of it reaches an image ---
FROM ${BASE} AS tools
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build
RUN python3 -m venv --without-pip /opt/inn
COPY deploy/requirements.py deploy/trim.sh ./

# Only what is to be installed goes on from here, so that other changes of pyproject.toml install nothing anew.
FROM tools AS requirements
ARG HUB_EXTRAS="build edge"
COPY pyproject.toml ./
RUN python3 requirements.py edge > edge.txt && python3 requirements.py ${HUB_EXTRAS} > hub.txt

# Our own code, apart from the dependencies: a change of it makes a small layer.
FROM tools AS project
COPY LICENSE README.md pyproject.toml ./
COPY inn_core inn_core
COPY models/checkpoints models/checkpoints
COPY models/demo models/demo
COPY service service
RUN python3 -m pip wheel --no-deps --wheel-dir /project . \
 && python3 -m pip --python /opt/inn/bin/python install --no-deps --no-index --no-compile --target /opt/service /project/*.whl \
 && /opt/inn/bin/python -m compileall -q --invalidation-mode unchecked-hash /opt/service \
 && cp -a /opt/service /opt/service-of-nodes \
 && rm -r /opt/service-of-nodes/inn_core

FROM tools AS edge-dependencies
COPY --from=requirements /build/edge.txt ./
# `wheel[s]` matches the folder if it is there; constraints.txt keeps the instruction valid if it is not.
COPY constraints.txt wheel[s] ./wheels/
RUN python3 -m pip --python /opt/inn/bin/python install --no-compile \
      --find-links wheels --constraint wheels/constraints.txt --requirement edge.txt \
 && ./trim.sh /opt/inn

# --- what both images start from: an interpreter, no installer, a user without rights ---
FROM ${BASE} AS bare
RUN rm -rf /usr/local/lib/python3*/ensurepip /usr/lib/python3*/ensurepip /usr/share/python-wheels \
      /usr/local/lib/python3*/site-packages/pip* /usr/local/lib/python3*/site-packages/setuptools* \
      /usr/local/lib/python3*/site-packages/wheel* /usr/local/lib/python3*/site-packages/pkg_resources \
      /usr/lib/python3/dist-packages/pip* /usr/lib/python3/dist-packages/setuptools* \
      /usr/lib/python3/dist-packages/wheel* /usr/lib/python3/dist-packages/pkg_resources \
      /usr/local/bin/pip* /usr/bin/pip* /usr/local/bin/wheel /usr/bin/wheel /etc/pip.conf \
 && groupadd --gid 10001 inn \
 && useradd --uid 10001 --gid inn --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin inn \
 && install -d -o inn -g inn -m 0700 /var/lib/inn /var/lib/inn-tokens
COPY deploy/healthcheck.py /opt/healthcheck.py
# HOME: what libraries want to cache goes to /tmp, which is memory when the root file system is read-only.
ENV PATH=/opt/service/bin:/opt/inn/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
VOLUME /var/lib/inn
EXPOSE 8000
USER 10001:10001
# `inn` runs as process 1, handles SIGTERM and waits for its children itself: no init is needed.
ENTRYPOINT ["inn"]

FROM bare AS edge
COPY --from=edge-dependencies /opt/inn /opt/inn
COPY --from=project /opt/service-of-nodes /opt/service
ENV INN_EDGE_STORE=/var/lib/inn INN_EDGE_HOST=0.0.0.0 INN_EDGE_PORT=8000
# Ready means that a model is being served: a node that waits for its first one is starting.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["python3", "-I", "/opt/healthcheck.py", "INN_EDGE_PORT"]
CMD ["edge"]

# --- after the edge image, so that a builder which runs every stage before its target does not fetch torch for it ---
FROM tools AS hub-dependencies
COPY --from=requirements /build/hub.txt ./
COPY constraints.txt wheel[s] ./wheels/
# At the end goes what torch brings to compile extensions with.
RUN python3 -m pip --python /opt/inn/bin/python install --no-compile \
      --find-links wheels --constraint wheels/constraints.txt --requirement hub.txt \
 && ./trim.sh /opt/inn setuptools pkg_resources _distutils_hack distutils-precedence.pth

FROM bare AS hub
COPY --from=hub-dependencies /opt/inn /opt/inn
COPY --from=project /opt/service /opt/service
ENV INN_STORE=/var/lib/inn INN_HOST=0.0.0.0 INN_PORT=8000
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 CMD ["python3", "-I", "/opt/healthcheck.py", "INN_PORT"]
CMD ["serve"]
