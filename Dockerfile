# One image for every worker: `docker run trendstream worker windows`. docker-compose.yml puts them together.
FROM python:3.11-slim AS build

ENV VIRTUAL_ENV=/opt/trendstream UV_LINK_MODE=copy UV_COMPILE_BYTECODE=1
RUN python -m venv "$VIRTUAL_ENV" && pip install --no-cache-dir uv
WORKDIR /src
COPY requirements.lock .
# Without torchao, which transformers would import in every worker; an image for int8 exports takes the whole list.
RUN --mount=type=cache,target=/root/.cache/uv grep -v '^torchao==' requirements.lock > workers.lock \
    && uv pip install --no-deps -r workers.lock
COPY pyproject.toml README.md ./
COPY streams streams
COPY featurizers featurizers
COPY model model
COPY deploy deploy
RUN uv pip install --no-deps --no-build-isolation .

FROM python:3.11-slim

RUN useradd --create-home --uid 10001 trendstream \
    && mkdir -p /data/models /data/pictures && chown -R trendstream /data
COPY --from=build /opt/trendstream /opt/trendstream
ENV PATH=/opt/trendstream/bin:$PATH PYTHONUNBUFFERED=1 TRENDSTREAM_MODEL_DIR=/data/models
USER trendstream
WORKDIR /data
ENTRYPOINT ["trendstream"]
CMD ["--help"]
