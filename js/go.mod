// The Go verifier that the tests put beside the one in TypeScript. A module of
// its own, so that Go does not look into node_modules.
module github.com/quashdev/quash/js

go 1.26.0

require github.com/quashdev/quash v0.0.0

require github.com/coder/websocket v1.8.15 // indirect

replace github.com/quashdev/quash => ../
