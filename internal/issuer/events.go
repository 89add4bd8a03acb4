package issuer

import "github.com/quashdev/quash/internal/revset"

// Reach is which sessions of a subject an event ends.
type Reach int

// The reaches.
const (
	None Reach = iota
	This
	Others
	All
	Matching // those that carry the revoked claim, if the caller asks
)

// Event is something that happens to a session, a subject, a key or a claim,
// and what it does.
type Event struct {
	Name    string // in the audit and the log
	Title   string // in the documentation
	Ends    Reach
	Claim   string // that its revocation names; empty: it makes none; "*": the caller's
	Forever bool   // the revocation kills whatever rev says
	Note    string // what else it does, for the documentation
}

// The events. This is the one place that says what each does: the code acts
// on it and docs/design.md shows it.
var (
	LoggedOut       = Event{Name: "logout", Title: "logout", Ends: This, Claim: "sid", Forever: true}
	LoggedOutOthers = Event{Name: "logout_others", Title: "logout of the other sessions", Ends: Others, Claim: "sid", Forever: true}
	LoggedOutAll    = Event{Name: "logout_all", Title: "logout of all sessions", Ends: All, Claim: "sub"}
	PasswordChanged = Event{Name: "password_changed", Title: "password changed by the user", Ends: Others, Claim: "sub", Note: "this session goes on with a new token pair"}
	PasswordSet     = Event{Name: "password_set", Title: "password set by an administrator", Ends: All, Claim: "sub"}
	Deactivated     = Event{Name: "deactivated", Title: "account deactivated", Ends: All, Claim: "sub", Note: "login is refused"}
	Reactivated     = Event{Name: "reactivated", Title: "account reactivated", Ends: None, Note: "old tokens and sessions stay dead"}
	Deleted         = Event{Name: "deleted", Title: "account deleted", Ends: All, Claim: "sub", Note: "its rows go, but for the audit"}
	RefreshReused   = Event{Name: "refresh_reuse", Title: "refresh token reused", Ends: This, Claim: "sid", Forever: true}
	SessionEvicted  = Event{Name: "session_evicted", Title: "too many sessions of a subject", Ends: This, Claim: "sid", Forever: true, Note: "the one unused for longest"}
	ClaimsChanged   = Event{Name: "claims_changed", Title: "claims changed", Ends: None, Claim: "sub", Note: "clients refresh and get the new claims"}
	KeyCompromised  = Event{Name: "key_compromised", Title: "signing key compromised", Ends: None, Claim: "kid", Forever: true, Note: "the key leaves the JWKS and the feed at once; clients refresh"}
	ClientChanged   = Event{Name: "client_changed", Title: "client changed", Ends: None, Claim: "client_id", Note: "where its scopes, audience or grants are others: it refreshes"}
	ClientDeleted   = Event{Name: "client_deleted", Title: "client deleted", Ends: All, Claim: "client_id", Note: "those of the client; its row goes"}
	ClaimRevoked    = Event{Name: "revoked", Title: "any claim, by an administrator", Ends: Matching, Claim: "*", Note: "sessions that match end if asked"}
	loggedIn        = Event{Name: "login"}
	sessionOpened   = Event{Name: "session_opened"}
	accountCreated  = Event{Name: "account_created"}
	accountNamed    = Event{Name: "account_named"}
	apiKeyCreated   = Event{Name: "api_key_created"}
	apiKeyReplaced  = Event{Name: "api_key_replaced"}
	apiKeyDeleted   = Event{Name: "api_key_deleted"}
	clientCreated   = Event{Name: "client_created"}
	clientReplaced  = Event{Name: "client_secret_replaced"}
	signingKeyMade  = Event{Name: "signing_key_created"}

	signingKeyRotated = Event{Name: "signing_key_rotated"}
	secretChanged     = Event{Name: "secret_changed"}
)

// before is what the revocations of e kill.
func (e Event) before(claim string) uint64 {
	if e.Forever || claim == "sid" || claim == "jti" || claim == "kid" {
		return revset.Forever
	}
	return 0
}
