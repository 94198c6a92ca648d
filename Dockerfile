# For those who build with a container engine; `make images` needs none.
#   docker build --build-arg COMPONENT=controller --build-arg RUN_AS=65532 -t controller .
#   docker build --build-arg COMPONENT=speaker --build-arg RUN_AS=0 -t speaker .
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG COMPONENT VERSION=v0.1.0 TARGETOS=linux TARGETARCH
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY api api
COPY controller controller
COPY speaker speaker
COPY internal internal
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -tags grpcnotrace \
    -ldflags "-s -w -X main.version=$VERSION" -o /berth ./$COMPONENT

FROM scratch
ARG RUN_AS
COPY --from=build /berth /berth
USER $RUN_AS
ENTRYPOINT ["/berth"]
