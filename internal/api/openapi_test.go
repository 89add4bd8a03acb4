package api_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"

	"github.com/quashdev/quash/client"
	"github.com/quashdev/quash/internal/api"
)

func TestEveryRouteIsDescribedAndNoOther(t *testing.T) {
	served, described := map[string]bool{}, map[string]bool{}
	for _, rt := range api.Routes() {
		served[rt.Method+" "+rt.Path] = true
	}
	for at, item := range loadSpec(t).doc.Paths.Map() {
		for method := range item.Operations() {
			described[method+" "+at] = true
		}
	}
	if diff := cmp.Diff(served, described); diff != "" {
		t.Errorf("what is served (-) is not what is described (+):\n%s", diff)
	}
}

func TestEveryRouteIsDescribedAsItIs(t *testing.T) {
	for _, rt := range api.Routes() {
		op := loadSpec(t).doc.Paths.Value(rt.Path).GetOperation(rt.Method)
		where := rt.Method + " " + rt.Path
		var query []string
		for _, p := range op.Parameters {
			if p.Value.In == "query" {
				query = append(query, p.Value.Name)
			}
		}
		if !slices.Equal(query, rt.Query) {
			t.Errorf("%s: described query parameters %q, but it reads %q", where, query, rt.Query)
		}
		if described := op.RequestBody != nil; described != rt.Body {
			t.Errorf("%s: body described: %t, read: %t", where, described, rt.Body)
		}
		if diff := cmp.Diff(security(rt), *op.Security); diff != "" {
			t.Errorf("%s: credentials that it takes (-) and described ones (+):\n%s", where, diff)
		}
	}
}

func security(rt api.Route) openapi3.SecurityRequirements {
	switch {
	case rt.Path == "/v1/logout":
		return openapi3.SecurityRequirements{{}, {"accessToken": []string{}}, {"cookie": []string{}}}
	case rt.Path == "/v1/refresh", rt.Path == "/v1/password":
		return openapi3.SecurityRequirements{{}, {"cookie": []string{}}}
	case rt.OAuth:
		return openapi3.SecurityRequirements{{}, {"clientSecret": []string{}}}
	case rt.User:
		return openapi3.SecurityRequirements{{"accessToken": []string{}}}
	case rt.Scope != "":
		return openapi3.SecurityRequirements{{"apiKey": []string{rt.Scope}}}
	}
	return openapi3.SecurityRequirements{}
}

func TestDescriptionIsServedOnBothListeners(t *testing.T) {
	w := newWorld(t)
	for name, do := range w.listeners() {
		answer, text := do("GET", "/openapi.json", nil, "")
		if answer.StatusCode != http.StatusOK || !json.Valid([]byte(text)) {
			t.Errorf("%s: got %d, want 200 and the description", name, answer.StatusCode)
		}
	}
}

// TestEveryCodeHasAStatus walks the codes in the issuer's source, so that a new
// one cannot be forgotten.
func TestEveryCodeHasAStatus(t *testing.T) {
	want := map[string]int{
		"invalid_request": 400, "invalid_credentials": 401, "invalid_grant": 400, "invalid_token": 401, "weak_password": 400,
		"invalid_scope": 400, "invalid_client": 401, "unauthorized_client": 400,
		"unknown_claim": 400, "not_found": 404, "conflict": 409, "forbidden": 403, "too_many_requests": 429,
		"busy": 503, "full": 503, "unavailable": 503, "outcome_unknown": 503,
	}
	got := map[string]int{}
	for _, code := range codes(t, "../issuer/errors.go") {
		got[code] = api.StatusOf(client.Code(code))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("statuses of the issuer's codes (-want +got):\n%s", diff)
	}
	described := loadSpec(t).doc.Components.Schemas["Problem"].Value.Properties["code"].Value.Enum
	names := map[string]bool{}
	for _, code := range described {
		names[code.(string)] = true
	}
	published := codes(t, "../../client/problem.go")
	if diff := cmp.Diff(slices.Sorted(slices.Values(published)), slices.Sorted(maps.Keys(names))); diff != "" {
		t.Errorf("codes of package client (-) and of the description (+):\n%s", diff)
	}
	for code := range got {
		if !slices.Contains(published, code) {
			t.Errorf("package client lacks the issuer's code %s", code)
		}
	}
}

// codes returns the constants of type Code in a file.
func codes(t *testing.T, path string) []string {
	t.Helper()
	file := must(parser.ParseFile(token.NewFileSet(), path, nil, 0))(t)
	var found []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if ok {
			if kind, ok := spec.Type.(*ast.Ident); ok && kind.Name == "Code" {
				found = append(found, must(strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value))(t))
			}
		}
		return true
	})
	return found
}
