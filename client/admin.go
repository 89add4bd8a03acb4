package client

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Admin has the calls of the private listener. Each needs an API key with the
// scope that it names.
type Admin struct{ client *Client }

// Admin returns the calls of the private listener, made with Config.Key.
func (c *Client) Admin() Admin { return Admin{c} }

// request returns a request with the API key to a path below /v1/admin.
func (a Admin) request(method string, query url.Values, body any, path ...string) request {
	return request{method: method, path: append([]string{"v1", "admin"}, path...), query: query, bearer: a.client.key, body: body}
}

func (ch Change) query() url.Values {
	q := url.Values{}
	if ch.Reason != "" {
		q.Set("reason", ch.Reason)
	}
	if ch.DryRun {
		q.Set("dry_run", "true")
	}
	return q
}

// page returns the query of a part of a list.
func page(after string, limit int) url.Values {
	q := url.Values{}
	if after != "" {
		q.Set("after", after)
	}
	if limit != 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return q
}

// Accounts lists accounts in the order of their subjects, after one of them,
// at most limit of them, 1 to 1000; 0 is 100. Scope accounts.
func (a Admin) Accounts(ctx context.Context, after string, limit int) (Page[Account], error) {
	return call[Page[Account]](ctx, a.client, a.request("GET", page(after, limit), nil, "accounts"))
}

// AccountNamed returns the account that logs in with a name; the problem is
// CodeNotFound where there is none. Scope accounts.
func (a Admin) AccountNamed(ctx context.Context, name string) (Account, error) {
	found, err := call[Page[Account]](ctx, a.client, a.request("GET", url.Values{"name": {name}}, nil, "accounts"))
	if err == nil && len(found.Items) != 1 {
		err = fmt.Errorf("client: %d accounts have the name; the answer is not what a Quash server sends", len(found.Items))
	}
	if err != nil {
		return Account{}, err
	}
	return found.Items[0], nil
}

// Account returns the account of a subject. Scope accounts.
func (a Admin) Account(ctx context.Context, subject string) (Account, error) {
	return call[Account](ctx, a.client, a.request("GET", nil, nil, "accounts", subject))
}

// CreateAccount makes an account. Scope accounts.
func (a Admin) CreateAccount(ctx context.Context, n NewAccount) (Account, error) {
	return call[Account](ctx, a.client, a.request("POST", nil, n, "accounts"))
}

// ImportAccounts makes accounts that another system had, with the hashes of
// their passwords; what it refuses of them is in the answer. With updates it waits
// for their confirmation. Repeating a call changes nothing more. Scope accounts.
func (a Admin) ImportAccounts(ctx context.Context, r ImportRequest) (Imported, error) {
	return call[Imported](ctx, a.client, a.request("POST", nil, r, "import"))
}

// DeleteAccount ends all that a subject has and deletes it. Scope accounts.
func (a Admin) DeleteAccount(ctx context.Context, subject string, ch Change) (Effect, error) {
	return call[Effect](ctx, a.client, a.request("DELETE", ch.query(), nil, "accounts", subject))
}

// PutClaims replaces a subject's claims; its tokens with the old ones die, its
// sessions go on. Scope accounts.
func (a Admin) PutClaims(ctx context.Context, subject string, claims json.RawMessage, ch Change) (Effect, error) {
	return call[Effect](ctx, a.client, a.request("PUT", ch.query(), ClaimsRequest{claims}, "accounts", subject, "claims"))
}

// SetPassword sets a subject's password and ends all that it has. Scope
// accounts.
func (a Admin) SetPassword(ctx context.Context, subject, password string, ch Change) (Effect, error) {
	return call[Effect](ctx, a.client, a.request("PUT", ch.query(), PasswordRequest{password}, "accounts", subject, "password"))
}

// Deactivate refuses further logins of a subject and ends all that it has.
// Scope accounts.
func (a Admin) Deactivate(ctx context.Context, subject string, ch Change) (Effect, error) {
	return call[Effect](ctx, a.client, a.request("POST", ch.query(), nil, "accounts", subject, "deactivate"))
}

// Reactivate allows logins again, and revives nothing. Scope accounts.
func (a Admin) Reactivate(ctx context.Context, subject string, ch Change) (Effect, error) {
	return call[Effect](ctx, a.client, a.request("POST", ch.query(), nil, "accounts", subject, "reactivate"))
}

// Sessions lists the sessions of a subject, all of them. Scope sessions.
func (a Admin) Sessions(ctx context.Context, subject string) ([]Session, error) {
	found, err := call[Page[Session]](ctx, a.client, a.request("GET", nil, nil, "accounts", subject, "sessions"))
	return found.Items, err
}

// OpenSession opens a session for a subject whose password the caller has
// checked, or that needs none. Scope sessions.
func (a Admin) OpenSession(ctx context.Context, subject string, d Device) (Tokens, error) {
	return call[Tokens](ctx, a.client, a.request("POST", nil, d, "accounts", subject, "sessions"))
}

// EndSessions ends all sessions of a subject. Scope sessions.
func (a Admin) EndSessions(ctx context.Context, subject string, ch Change) (Effect, error) {
	return call[Effect](ctx, a.client, a.request("DELETE", ch.query(), nil, "accounts", subject, "sessions"))
}

// EndSession ends one session. Scope sessions.
func (a Admin) EndSession(ctx context.Context, session string, ch Change) (Effect, error) {
	return call[Effect](ctx, a.client, a.request("DELETE", ch.query(), nil, "sessions", session))
}

// Revoke ends every token that has a value under a claim. Scope revoke.
func (a Admin) Revoke(ctx context.Context, r RevokeRequest) (Effect, error) {
	return call[Effect](ctx, a.client, a.request("POST", Change{DryRun: r.DryRun}.query(), r, "revocations"))
}

// Revocations lists revocations in the order of the log, those that verifiers
// have forgotten too. Scope audit.
func (a Admin) Revocations(ctx context.Context, q RevocationQuery) (Page[Revocation], error) {
	query := page(strconv.FormatUint(q.After, 10), q.Limit)
	if q.Wait > 0 {
		query.Set("wait", seconds(q.Wait))
	}
	return call[Page[Revocation]](ctx, a.client, a.request("GET", query, nil, "revocations"))
}

// Revocation returns what is known of the revocation at a position: who made
// it and why, and when each verifier confirmed it. With [Client.WithWait] it
// waits for the confirmation; else it does not. Scope audit.
func (a Admin) Revocation(ctx context.Context, position uint64) (Evidence, error) {
	return call[Evidence](ctx, a.client, a.request("GET", nil, nil, "revocations", strconv.FormatUint(position, 10)))
}

// Request returns what became of a request of the database's outbox. With
// [Client.WithWait] it waits until it is carried out and confirmed; else it does
// not. Scope audit.
func (a Admin) Request(ctx context.Context, id uint64) (Request, error) {
	return call[Request](ctx, a.client, a.request("GET", nil, nil, "requests", strconv.FormatUint(id, 10)))
}

// Backup writes to w all that the server's store holds at one moment, for quash
// restore. It takes as long as that takes: ctx bounds it. What was written
// before an error is of no use. Scope backup.
func (a Admin) Backup(ctx context.Context, w io.Writer) error {
	c := *a.client
	c.http.Timeout = 0
	built, err := c.build(ctx, a.request("GET", nil, nil, "backup"))
	if err != nil {
		return fmt.Errorf("client: back up: %w", err)
	}
	resp, err := c.http.Do(built)
	if err != nil {
		return fmt.Errorf("client: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
		return problemOf(resp, body)
	}
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("client: back up: it broke off: %w", err)
	}
	return nil
}

// Audit lists what happened, newest first. Scope audit.
func (a Admin) Audit(ctx context.Context, q AuditQuery) (Page[AuditEntry], error) {
	query := page("", q.Limit)
	if q.Before != 0 {
		query.Set("before", strconv.FormatUint(q.Before, 10))
	}
	for name, value := range map[string]string{"subject": q.Subject, "event": q.Event} {
		if value != "" {
			query.Set(name, value)
		}
	}
	return call[Page[AuditEntry]](ctx, a.client, a.request("GET", query, nil, "audit"))
}

// Explain says what becomes of an access token, and why. Scope audit.
func (a Admin) Explain(ctx context.Context, token string) (Explanation, error) {
	return call[Explanation](ctx, a.client, a.request("POST", nil, ExplainRequest{token}, "explain"))
}

// Log says what the log is and where it ends. Scope audit.
func (a Admin) Log(ctx context.Context) (Log, error) {
	return call[Log](ctx, a.client, a.request("GET", nil, nil, "log"))
}

// VerifyLog checks the log's chain from its first record. Scope audit.
func (a Admin) VerifyLog(ctx context.Context) (LogReport, error) {
	return call[LogReport](ctx, a.client, a.request("POST", nil, nil, "log", "verify"))
}

// Verifiers lists the verifiers that are connected to the node, and those that
// may still rely on it. Scope audit.
func (a Admin) Verifiers(ctx context.Context) ([]Verifier, error) {
	found, err := call[Page[Verifier]](ctx, a.client, a.request("GET", nil, nil, "verifiers"))
	return found.Items, err
}

// Keys lists the API keys, oldest first. Scope keys.
func (a Admin) Keys(ctx context.Context) ([]Key, error) {
	found, err := call[Page[Key]](ctx, a.client, a.request("GET", nil, nil, "keys"))
	return found.Items, err
}

// CreateKey makes an API key. Scope keys.
func (a Admin) CreateKey(ctx context.Context, n NewKey) (NewSecret, error) {
	return call[NewSecret](ctx, a.client, a.request("POST", nil, n, "keys"))
}

// ReplaceKey gives an API key a new secret; the old one works on for the
// overlap, to the second, 0 to 30 days. Scope keys.
func (a Admin) ReplaceKey(ctx context.Context, id string, overlap time.Duration) (NewSecret, error) {
	return call[NewSecret](ctx, a.client, a.request("POST", nil, ReplaceKey{int64(overlap / time.Second)}, "keys", id, "replace"))
}

// DeleteKey ends an API key at once. Scope keys.
func (a Admin) DeleteKey(ctx context.Context, id string) error {
	_, err := call[struct{}](ctx, a.client, a.request("DELETE", nil, nil, "keys", id))
	return err
}

// Clients lists the registered clients, in the order of their client_id. Scope
// clients.
func (a Admin) Clients(ctx context.Context) ([]Registration, error) {
	found, err := call[Page[Registration]](ctx, a.client, a.request("GET", nil, nil, "clients"))
	return found.Items, err
}

// Client returns a registered client. Scope clients.
func (a Admin) Client(ctx context.Context, id string) (Registration, error) {
	return call[Registration](ctx, a.client, a.request("GET", nil, nil, "clients", id))
}

// CreateClient registers a client. Scope clients.
func (a Admin) CreateClient(ctx context.Context, n NewRegistration) (NewClientSecret, error) {
	return call[NewClientSecret](ctx, a.client, a.request("POST", nil, n, "clients"))
}

// PutClient replaces the settings of a client. Where its tokens would be others,
// those that it has die, and its sessions go on. Scope clients.
func (a Admin) PutClient(ctx context.Context, id string, s ClientSettings, ch Change) (Effect, error) {
	return call[Effect](ctx, a.client, a.request("PUT", ch.query(), s, "clients", id))
}

// ReplaceClientSecret gives a client a new secret; the old one works on for the
// overlap, to the second, 0 to 30 days. Scope clients.
func (a Admin) ReplaceClientSecret(ctx context.Context, id string, overlap time.Duration) (NewClientSecret, error) {
	return call[NewClientSecret](ctx, a.client, a.request("POST", nil, ReplaceKey{int64(overlap / time.Second)}, "clients", id, "secret"))
}

// DeleteClient deletes a client and ends all that it has. Scope clients.
func (a Admin) DeleteClient(ctx context.Context, id string, ch Change) (Effect, error) {
	return call[Effect](ctx, a.client, a.request("DELETE", ch.query(), nil, "clients", id))
}

// Issuers lists the other issuers whose tokens can be revoked, by name. Scope
// keys.
func (a Admin) Issuers(ctx context.Context) ([]Issuer, error) {
	found, err := call[Page[Issuer]](ctx, a.client, a.request("GET", nil, nil, "issuers"))
	return found.Items, err
}

// AddIssuer has revocations of another issuer's tokens kept, or changes how, and
// returns what is in force. A lifetime never gets shorter. Where it gets longer,
// where subjects become the same, and where the issuer is added to a log that may
// have lost something, every token that it made before is revoked. Scope keys.
func (a Admin) AddIssuer(ctx context.Context, n NewIssuer) (Issuer, error) {
	return call[Issuer](ctx, a.client, a.request("POST", nil, n, "issuers"))
}

// SigningKeys lists the keys that tokens are or were signed with, oldest
// first. Scope keys.
func (a Admin) SigningKeys(ctx context.Context) ([]SigningKey, error) {
	found, err := call[Page[SigningKey]](ctx, a.client, a.request("GET", nil, nil, "signing-keys"))
	return found.Items, err
}

// RotateSigningKey has the next signing key take the place of the current one,
// whose tokens live on, and returns the one that signs now. It is
// [CodeConflict] where the next has been published for less than a day, unless
// now is set: then verifiers that keep a JWKS may refuse tokens until they fetch
// it again. Verifiers of package quash never do. Scope keys.
func (a Admin) RotateSigningKey(ctx context.Context, now bool) (SigningKey, error) {
	query := url.Values{}
	if now {
		query.Set("now", "true")
	}
	return call[SigningKey](ctx, a.client, a.request("POST", query, nil, "signing-keys", "rotate"))
}
