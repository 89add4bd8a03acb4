// Tests of internal/jws with the vectors of Wycheproof. A module of its own, so
// that they do not enter the module graph of who only verifies.
module github.com/quashdev/quash/wycheproof

go 1.26.4

require (
	github.com/c2sp/wycheproof v0.0.0-20260902155932-3fa63dd0344a
	github.com/quashdev/quash v0.0.0
)

replace github.com/quashdev/quash => ../
