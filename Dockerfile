# The production image: one image, one process a container; docker-compose.yml says which.

FROM python:3.11-slim-bookworm AS build
WORKDIR /app
RUN python -m venv /opt/venv
COPY requirements/runtime.lock requirements/runtime.lock
# Wheels only, each checked by its hash: nothing is built from source, so no build requirement goes unchecked.
RUN /opt/venv/bin/pip install --no-cache-dir --no-deps --only-binary :all: --require-hashes -r requirements/runtime.lock \
    && /opt/venv/bin/pip uninstall --yes pip setuptools
COPY scripts/install_project.py scripts/install_project.py
RUN /opt/venv/bin/python scripts/install_project.py

FROM python:3.11-slim-bookworm
RUN groupadd --gid 10001 keystead \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin keystead \
    && install -d -o keystead -g keystead -m 0700 /data /run/keystead /run/keystead/hsm
COPY --from=build /opt/venv /opt/venv
WORKDIR /app
COPY manage.py LICENSE ./
COPY hsm hsm
COPY vault vault
COPY cloudkeys cloudkeys
COPY xks xks
COPY templates templates
COPY docs docs
# Compiled now, because the root file system is read-only later.
RUN /opt/venv/bin/python -m compileall -q hsm vault cloudkeys xks
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    KEYSTEAD_DATA_DIR=/data
USER 10001:10001
ENTRYPOINT ["keystead"]
CMD ["--help"]
