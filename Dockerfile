# Two images from one file (docs/how-to/image.md):
#   api   the API, the dispatcher and the client: no torch, no Ray, no numpy
#   ray   everything: training workers, engines, the supervisor, `dti serve`
#
#   docker build --target api --tag dti-api .
#   docker build --target ray --tag dti-ray .
ARG BASE=python:3.11-slim


# The requirement files. They are copied one by one below, so that a change elsewhere in
# pyproject.toml keeps the layers of dependencies.
FROM ${BASE} AS requirements
WORKDIR /requirements
COPY pyproject.toml constraints.txt deploy/image/requirements.py ./
RUN python requirements.py


# The environment that both images start from. It has no pip of its own: that of the base installs.
FROM ${BASE} AS environment
RUN python -m venv --without-pip /opt/dti
ENV PATH=/opt/dti/bin:$PATH \
    HOME=/tmp \
    USER=dti \
    PYTHONUNBUFFERED=1
WORKDIR /opt/dti


# The project alone, which both images copy last.
FROM environment AS project
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY dti_engine dti_engine
COPY services services
RUN pip --python /opt/dti/bin/python install --no-cache-dir --no-deps --root /project .


FROM environment AS api
COPY --from=requirements /requirements/versions.txt /requirements/api.txt /requirements/
RUN pip --python /opt/dti/bin/python install --no-cache-dir \
    --constraint /requirements/versions.txt --requirement /requirements/api.txt
COPY --from=project /project/opt/dti /opt/dti

# Packages are compiled when pip installs them; nothing is written when a process starts. glibc gives
# large freed blocks back to the system (services/process.py says why).
ENV PYTHONDONTWRITEBYTECODE=1 \
    MALLOC_ARENA_MAX=1 \
    MALLOC_MMAP_THRESHOLD_=262144 \
    MALLOC_TRIM_THRESHOLD_=1000000
USER 10001:10001
EXPOSE 8000
CMD ["python", "-m", "services.api", "--host", "0.0.0.0"]

ARG BASE
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="dti-api" \
      org.opencontainers.image.description="Directional Textual Inversion: the API and the dispatcher" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"


FROM environment AS ray
# bash and wget: KubeRay's probes. gcc and Python.h: Triton compiles a launcher for each kernel when
# it first runs. The official Python images have the headers already.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends bash ca-certificates gcc libc6-dev wget \
    && if [ ! -e "$(python -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" ]; \
       then apt-get install --yes --no-install-recommends libpython3-dev; fi \
    && apt-get clean \
    && rm -rf /var/lib/apt/lists/*

# torch has a layer of its own, because it is larger than everything else together. PyPI's build for
# Linux brings its CUDA libraries; TORCH_INDEX_URL names the index of another build.
ARG TORCH_INDEX_URL=""
COPY --from=requirements /requirements/torch.txt /requirements/
RUN pip --python /opt/dti/bin/python install --no-cache-dir \
    ${TORCH_INDEX_URL:+--index-url "${TORCH_INDEX_URL}"} --requirement /requirements/torch.txt

COPY --from=requirements /requirements/versions.txt /requirements/ray.txt /requirements/
RUN pip --python /opt/dti/bin/python install --no-cache-dir \
    --constraint /requirements/versions.txt --requirement /requirements/ray.txt
COPY --from=project /project/opt/dti /opt/dti

# The NVIDIA variables have the container runtime mount the driver.
ENV PYTHONDONTWRITEBYTECODE=1 \
    HF_HOME=/models \
    RAY_USAGE_STATS_ENABLED=0 \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
CMD ["dti", "--help"]

ARG BASE
ARG VERSION=0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="dti-ray" \
      org.opencontainers.image.description="Directional Textual Inversion: training workers, engines and the supervisor, on Ray" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${BASE}"
