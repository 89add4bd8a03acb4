package client

import (
	"encoding/json"
	"time"
)

// LoginRequest is the body of POST /v1/login.
type LoginRequest struct {
	Name     string `json:"name"`
	Password string `json:"password"`
	Client   string `json:"client,omitempty"` // client_id of the tokens; empty: the server's default
	Device   string `json:"device,omitempty"` // in the user's words, for the list of sessions; at most 128 characters
	Scope    string `json:"scope,omitempty"`  // of a registered client, separated by spaces; empty: all that it may have
	// Cookie has the refresh token kept in a cookie that no script can read, for
	// pages of an origin that the server was given (docs/browsers.md). Others are refused.
	Cookie bool `json:"cookie,omitempty"`
}

// Tokens is what a login, a refresh or an opened session gives.
type Tokens struct {
	AccessToken  string `json:"access_token"`
	TokenType    string `json:"token_type"`              // "Bearer"
	ExpiresIn    int64  `json:"expires_in"`              // seconds until the access token ends
	RefreshToken string `json:"refresh_token,omitempty"` // left out where it is in a cookie
	Scope        string `json:"scope,omitempty"`         // granted to a registered client
	Session      string `json:"session"`
	Subject      string `json:"subject"`
}

// RefreshRequest is the body of POST /v1/refresh, and, where it is not by an
// access token, of POST /v1/logout.
type RefreshRequest struct {
	RefreshToken string `json:"refresh_token,omitempty"` // left out where a cookie has it
}

// PasswordChange is the body of POST /v1/password.
type PasswordChange struct {
	RefreshToken string `json:"refresh_token,omitempty"` // of the session that goes on; left out where a cookie has it
	OldPassword  string `json:"old_password"`
	NewPassword  string `json:"new_password"`
}

// PasswordChanged answers a [PasswordChange]: the new tokens of the session
// that goes on, and what the change ended.
type PasswordChanged struct {
	Tokens
	Effect Effect `json:"effect"`
}

// Effect is what a change ended, or with DryRun would end. The change stands,
// confirmed or not. One that found all of it ended already has no position, and
// is confirmed when everything before it is.
type Effect struct {
	Event        string        `json:"event"`    // as the audit names it
	Position     uint64        `json:"position"` // of the last revocation; 0 where none was needed
	Sessions     int           `json:"sessions"` // ended
	Tokens       int           `json:"tokens"`   // access tokens that had not expired and are dead now
	DryRun       bool          `json:"dry_run"`
	Confirmation *Confirmation `json:"confirmation,omitempty"` // nil for a dry run, and where nothing is revoked
}

// Confirmation says whether some verifier could still accept what was revoked.
type Confirmation struct {
	// Confirmed says that no verifier accepts it any more, whatever becomes of
	// the network, but on routes whose policy is to accept when stale.
	Confirmed bool `json:"confirmed"`
	// Milliseconds from the commit until it was confirmed, and so far while it
	// is not. Left out where that is not known any more.
	Milliseconds float64 `json:"ms,omitempty"`
	// Until is when it is confirmed at the latest, whatever happens. Left out
	// once it is.
	Until     time.Time `json:"until,omitzero"`
	Verifiers Tally     `json:"verifiers"`
	Pending   []Pending `json:"pending,omitempty"` // at most a hundred of them; for callers with an API key
	Nodes     []string  `json:"nodes,omitempty"`   // ids of other nodes that are waited for; for callers with an API key

	StaleRoutes int `json:"stale_routes"` // routes, of the node's verifiers, that accept tokens when stale
	Accepting   int `json:"accepting"`    // those of them that may accept what was revoked: their verifier lost its lease before it confirmed
}

// Tally counts the verifiers that relied on this node.
type Tally struct {
	Applied int `json:"applied"` // have confirmed
	Pending int `json:"pending"` // are waited for
	Lost    int `json:"lost"`    // lost their lease instead, and refuse
	Left    int `json:"left"`    // said goodbye instead
}

// Pending is a verifier that has not confirmed.
type Pending struct {
	Name    string    `json:"name"`
	Process string    `json:"process"` // random id of its process
	Key     string    `json:"key"`     // id of the API key that it presented
	Applied uint64    `json:"applied"` // position that it has confirmed
	Until   time.Time `json:"until"`   // its lease ends; by then it has confirmed, or refuses
}

// Account is a subject.
type Account struct {
	Subject     string          `json:"subject"`        // sub of its tokens
	Name        string          `json:"name,omitempty"` // what it logs in with; empty where an application keeps the password
	HasPassword bool            `json:"has_password"`   // whether it can log in with one
	Claims      json.RawMessage `json:"claims"`         // a JSON object that goes into its tokens
	Deactivated bool            `json:"deactivated"`
	Created     time.Time       `json:"created"`
	Changed     time.Time       `json:"changed"`
}

// NewAccount is the body of POST /v1/admin/accounts. Every member may be left
// out.
type NewAccount struct {
	Subject  string          `json:"subject,omitempty"`  // 1 to 128 visible ASCII characters; empty: one is made up
	Name     string          `json:"name,omitempty"`     // what it logs in with
	Password string          `json:"password,omitempty"` // needs a name
	Claims   json.RawMessage `json:"claims,omitempty"`   // a JSON object, at most 4 KiB
}

// ImportRequest is the body of POST /v1/admin/import: 1 to 200 accounts, of
// which at most 50 have a Password, and at most 64 KiB in all.
type ImportRequest struct {
	Accounts []ImportedAccount `json:"accounts"`
	Update   bool              `json:"update,omitempty"` // change accounts that are there and differ
}

// ImportedAccount is an account as another system has it. What is left out is
// the default in an account that is made, and stays in one that is there.
type ImportedAccount struct {
	Subject      string          `json:"subject,omitempty"`       // 1 to 128 visible ASCII characters; this or the name is required
	Name         string          `json:"name,omitempty"`          // what it logs in with
	Password     string          `json:"password,omitempty"`      // needs a name
	PasswordHash string          `json:"password_hash,omitempty"` // in its place: bcrypt, or Argon2id or Argon2i in PHC form
	Claims       json.RawMessage `json:"claims,omitempty"`        // a JSON object, at most 4 KiB
	Deactivated  *bool           `json:"deactivated,omitempty"`
}

// Imported says what became of the accounts of an [ImportRequest].
type Imported struct {
	Created  int          `json:"created"`
	Updated  int          `json:"updated"`
	Same     int          `json:"same"` // were there, as the row says
	Refused  []RefusedRow `json:"refused,omitempty"`
	Position uint64       `json:"position"` // of the last revocation that updates made; 0 where there was none
	// Confirmation is of an import with Update, as in [Effect]; nil without.
	Confirmation *Confirmation `json:"confirmation,omitempty"`
}

// RefusedRow is an account of an import that was not imported, and why.
type RefusedRow struct {
	Row    int    `json:"row"` // in the order of the request, from 0
	Code   Code   `json:"code"`
	Detail string `json:"detail"`
}

// ClaimsRequest is the body of PUT /v1/admin/accounts/{subject}/claims.
type ClaimsRequest struct {
	Claims json.RawMessage `json:"claims"` // a JSON object, at most 4 KiB
}

// PasswordRequest is the body of PUT /v1/admin/accounts/{subject}/password.
type PasswordRequest struct {
	Password string `json:"password"`
}

// Session is one login on one device.
type Session struct {
	ID       string    `json:"id"` // sid of its tokens
	Subject  string    `json:"subject"`
	Client   string    `json:"client"`
	Scope    string    `json:"scope,omitempty"` // granted to it, if it is registered
	Device   string    `json:"device,omitempty"`
	Address  string    `json:"address,omitempty"` // where it was last used from
	Created  time.Time `json:"created"`
	LastUsed time.Time `json:"last_used"`
	Expires  time.Time `json:"expires"` // whatever happens
	Current  bool      `json:"current"` // the one that asks
}

// Device is the body of POST /v1/admin/accounts/{subject}/sessions. Every
// member may be left out.
type Device struct {
	Client  string `json:"client,omitempty"`  // client_id of the tokens; empty: the server's default
	Device  string `json:"device,omitempty"`  // in the user's words; at most 128 characters
	Address string `json:"address,omitempty"` // the user's IP address
	Scope   string `json:"scope,omitempty"`   // of a registered client, separated by spaces; empty: all that it may have
}

// RevokeRequest is the body of POST /v1/admin/revocations.
type RevokeRequest struct {
	Issuer      string `json:"issuer,omitempty"`       // whose tokens; empty: the server's own
	Claim       string `json:"claim"`                  // such as sub, sid, jti, client_id, kid, or one of the accounts'
	Value       string `json:"value"`                  // 1 to 512 octets
	Reason      string `json:"reason,omitempty"`       // for the log and the audit; at most 256 characters
	EndSessions bool   `json:"end_sessions,omitempty"` // sessions whose tokens match end too
	DryRun      bool   `json:"-"`                      // query parameter dry_run
}

// NewIssuer is the body of POST /v1/admin/issuers.
type NewIssuer struct {
	Name         string `json:"name"`                    // iss of its tokens
	MaxLifetime  int64  `json:"max_lifetime"`            // seconds: the longest that its tokens live
	SameSubjects *bool  `json:"same_subjects,omitempty"` // what revokes a sub here revokes it there; nil: as it was, false at first
}

// Issuer is another issuer whose tokens can be revoked.
type Issuer struct {
	Name         string `json:"name"`          // iss of its tokens
	MaxLifetime  int64  `json:"max_lifetime"`  // seconds: the longest that its tokens live
	SameSubjects bool   `json:"same_subjects"` // what revokes a sub here revokes it there
}

// Change says why a change is made, and whether it is made: the query
// parameters reason and dry_run.
type Change struct {
	Reason string // for the log and the audit; at most 256 characters
	DryRun bool   // answer what would happen, and change nothing
}

// Page is a part of a list.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"` // where the next page begins; empty on the last
}

// Revocation is one record of the log with its evidence.
type Revocation struct {
	Position uint64 `json:"position"`
	Issuer   string `json:"issuer"`
	Claim    string `json:"claim"`
	Value    string `json:"value"`
	Before   uint64 `json:"before,omitempty"` // kills tokens whose rev is below; left out where Forever
	Forever  bool   `json:"forever"`          // kills whatever rev says
	// NotBefore is the second up to which, with the skew that is allowed, tokens
	// die that another issuer made; left out of one that names the server's own.
	NotBefore time.Time `json:"not_before,omitzero"`
	Time      time.Time `json:"time"`
	Event     string    `json:"event"`
	Actor     string    `json:"actor"` // who made it
	Reason    string    `json:"reason,omitempty"`
	Forget    time.Time `json:"forget,omitzero"` // when verifiers may forget it; left out where never
	Digest    string    `json:"digest"`          // of the log's chain up to here, in hexadecimal
}

// Evidence is what is known of one revocation.
type Evidence struct {
	Revocation    Revocation         `json:"revocation"`
	Audit         *AuditEntry        `json:"audit,omitempty"`   // of the event that made it
	Confirmation  Confirmation       `json:"confirmation"`      // how it stands now
	Confirmations []NodeConfirmation `json:"confirmations"`     // how it ended with each verifier
	Slowest       *Outcome           `json:"slowest,omitempty"` // of those that confirmed, the last
}

// NodeConfirmation is what one node saw of the revocations that it sent
// together.
type NodeConfirmation struct {
	Node         string    `json:"node"`
	First        uint64    `json:"first"`
	Last         uint64    `json:"last"`
	Began        time.Time `json:"began"` // when the node had read them, by its clock
	Milliseconds float64   `json:"ms"`    // from then until nobody was left to wait for; so far, while there is
	Confirmed    int       `json:"confirmed"`
	Lost         int       `json:"lost"`
	Left         int       `json:"left"`
	Verifiers    []Outcome `json:"verifiers"` // the slowest first, at most 2000 of them
}

// Outcome is how it ended with one verifier.
type Outcome struct {
	Name         string    `json:"name"`
	Process      string    `json:"process"` // random id of its process
	Key          string    `json:"key"`     // id of the API key that it presented
	Address      string    `json:"address"`
	End          string    `json:"end"` // confirmed, lease_lost or goodbye
	At           time.Time `json:"at"`  // by the node's clock
	Milliseconds float64   `json:"ms"`  // since the node had read it
}

// The ends.
const (
	EndConfirmed = "confirmed"  // it said that it had applied the revocation
	EndLost      = "lease_lost" // its lease ended, so that it refuses
	EndLeft      = "goodbye"    // it had stopped accepting tokens
)

// RevocationQuery selects revocations, in the order of the log.
type RevocationQuery struct {
	After uint64        // positions above
	Limit int           // 1 to 1000; 0: 100
	Wait  time.Duration // how long to wait, to the second, for one if there is none; at most a minute
}

// AuditEntry says what happened, once.
type AuditEntry struct {
	ID       uint64          `json:"id"`
	Time     time.Time       `json:"time"`
	Event    string          `json:"event"`
	Actor    string          `json:"actor"`             // "user", "system", or "admin:" and the name of the API key
	Address  string          `json:"address,omitempty"` // from where
	Subject  string          `json:"subject,omitempty"`
	Session  string          `json:"session,omitempty"`
	Position uint64          `json:"position,omitempty"` // of the last revocation that it made
	Reason   string          `json:"reason,omitempty"`
	Detail   json.RawMessage `json:"detail,omitempty"` // an object
}

// AuditQuery selects audit entries, newest first. Zero fields do not restrict.
type AuditQuery struct {
	Before  uint64 // ids below
	Subject string
	Event   string
	Limit   int // 1 to 1000; 0: 100
}

// ExplainRequest is the body of POST /v1/admin/explain.
type ExplainRequest struct {
	Token string `json:"token"` // an access token
}

// Explanation says what becomes of an access token, and why.
type Explanation struct {
	Verdict     string          `json:"verdict"`          // accepted, invalid, expired, revoked, stale, not_ready, or unknown where the server verifies no tokens
	Check       string          `json:"check,omitempty"`  // the check that failed
	Position    uint64          `json:"position"`         // up to which the log was applied when it was checked
	Claims      json.RawMessage `json:"claims,omitempty"` // of the token, believed or not
	Revocations []Revocation    `json:"revocations"`      // that kill it, at most ten, in the order of the log
}

// Mark is a position of the log and the digest of its chain there.
type Mark struct {
	Position uint64 `json:"position"`
	Digest   string `json:"digest"` // in hexadecimal
}

// Log says what the log is and where it ends.
type Log struct {
	ID          string   `json:"id"`
	Epoch       uint64   `json:"epoch"`
	Head        Mark     `json:"head"`
	Pruned      Mark     `json:"pruned"`       // up to here records may have left the live log
	MaxLifetime int64    `json:"max_lifetime"` // seconds: the longest of access tokens ever in force
	Claims      []string `json:"claims"`       // names that any record names
	Live        int      `json:"live"`         // revocations in force
}

// LogReport answers POST /v1/admin/log/verify.
type LogReport struct {
	Head    Mark      `json:"head"`            // where the log said that it ends
	Checked uint64    `json:"checked"`         // records that stand as they were sealed, from the first on
	Whole   bool      `json:"whole"`           // the chain holds from the first record to the head
	Break   *LogBreak `json:"break,omitempty"` // the first place where it does not
}

// LogBreak is where a log contradicts its own chain.
type LogBreak struct {
	Position uint64 `json:"position"`
	Flaw     string `json:"flaw"`            // changed, missing, reordered or inserted
	Found    uint64 `json:"found,omitempty"` // where the record that belongs here stands, if it was reordered
	Epoch    uint64 `json:"epoch,omitempty"` // that begins here, if it is not a record but this that has the flaw
}

// Request answers GET /v1/admin/requests/{id}: what became of what an
// application asked for by quash.revoke in its own database.
type Request struct {
	ID      uint64 `json:"request"`
	Waiting bool   `json:"waiting"` // no node has carried it out yet
	// Evidence of the last revocation that was made for it. Where there is
	// none, and it does not wait, a rule refused it or nothing was left to
	// revoke: the audit says which.
	Evidence *Evidence `json:"evidence,omitempty"`
}

// Verifier is a verifier that is connected to the node, or may still rely on a
// lease that the node granted it.
type Verifier struct {
	Process   string    `json:"process"` // random id of its process
	Name      string    `json:"name"`
	Key       string    `json:"key"` // id of the API key that it presented
	Address   string    `json:"address"`
	Since     time.Time `json:"since"`
	LastHeard time.Time `json:"last_heard"`
	Applied   uint64    `json:"applied"` // position that it has confirmed
	Sent      uint64    `json:"sent"`    // position that it was sent
	Lag       uint64    `json:"lag"`     // how far Applied is behind the node's head
	Connected bool      `json:"connected"`

	LeaseMilliseconds     int64 `json:"lease_ms"`     // left of its lease; 0: it has none
	StaleRoutes           int   `json:"stale_routes"` // of its routes, those that accept tokens when it is stale
	ToleranceMilliseconds int64 `json:"tolerance_ms"` // for how long at most they do
}

// Key is an API key. Its secret is not kept.
type Key struct {
	ID            string    `json:"id"`
	Name          string    `json:"name"`
	Scopes        []string  `json:"scopes"`
	Created       time.Time `json:"created"`
	LastUsed      time.Time `json:"last_used,omitzero"`      // to the minute
	PreviousUntil time.Time `json:"previous_until,omitzero"` // when the secret before this one ends
}

// NewKey is the body of POST /v1/admin/keys.
type NewKey struct {
	Name   string   `json:"name"`   // 1 to 64 characters
	Scopes []string `json:"scopes"` // of revoke, sessions, accounts, audit, keys, backup, clients; or feed alone, for verifiers
}

// NewSecret is an API key with its secret, which is shown this once.
type NewSecret struct {
	Key
	Secret string `json:"secret"`
}

// ReplaceKey is the body of POST /v1/admin/keys/{id}/replace.
type ReplaceKey struct {
	OverlapSeconds int64 `json:"overlap_seconds"` // how long the old secret works on; at most 30 days
}

// Registration is a registered client.
type Registration struct {
	ID     string `json:"client_id"`
	Method string `json:"method"` // client_secret_basic, client_secret_post, private_key_jwt or none
	ClientSettings
	Created       time.Time `json:"created"`
	LastUsed      time.Time `json:"last_used,omitzero"`      // to the minute
	PreviousUntil time.Time `json:"previous_until,omitzero"` // when the secret before this one ends
}

// ClientSettings are what of a registered client can be changed: the body of PUT
// /v1/admin/clients/{client_id}.
type ClientSettings struct {
	Name     string          `json:"name,omitempty"`     // at most 64 characters
	Keys     json.RawMessage `json:"keys,omitempty"`     // of a client with private_key_jwt: a JSON Web Key Set
	Grants   []string        `json:"grants"`             // refresh_token, client_credentials or both
	Scopes   []string        `json:"scopes,omitempty"`   // members that the scope of its tokens may have
	Audience []string        `json:"audience,omitempty"` // aud of its tokens; none: the server's
}

// NewRegistration is the body of POST /v1/admin/clients.
type NewRegistration struct {
	ID       string          `json:"client_id,omitempty"` // 1 to 128 visible ASCII characters; empty: one is made up
	Method   string          `json:"method,omitempty"`    // empty: client_secret_basic
	Name     string          `json:"name,omitempty"`
	Keys     json.RawMessage `json:"keys,omitempty"`
	Grants   []string        `json:"grants"`
	Scopes   []string        `json:"scopes,omitempty"`
	Audience []string        `json:"audience,omitempty"`
}

// NewClientSecret is a registered client with its secret, which is shown this
// once; empty where its method has none.
type NewClientSecret struct {
	Registration
	Secret string `json:"secret,omitempty"`
}

// SigningKey is a key that access tokens are signed with.
type SigningKey struct {
	ID        string          `json:"id"` // kid: its RFC 7638 thumbprint
	Algorithm string          `json:"algorithm"`
	Public    json.RawMessage `json:"public"` // JSON Web Key
	Created   time.Time       `json:"created"`
	Retired   time.Time       `json:"retired,omitzero"` // when it stopped signing
	Withdrawn bool            `json:"withdrawn"`        // compromised, and published no more
}
