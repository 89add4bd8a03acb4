package api

import _ "embed"

// description is the OpenAPI description of both listeners.
//
//go:embed openapi.json
var description []byte
