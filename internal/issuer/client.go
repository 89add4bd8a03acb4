package issuer

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/quashdev/quash/internal/jws"
)

// The grant types that a client may be allowed.
const (
	GrantRefresh = "refresh_token"      // to have sessions (RFC 6749, section 6)
	GrantClient  = "client_credentials" // to have tokens of its own (RFC 6749, section 4.4)
)

const (
	maxClientID   = 128
	maxClients    = maxListed
	maxClientKeys = 16
	maxList       = 64 // scopes and audiences of a client
	maxScopeToken = 64 // octets
)

// clientPrefix begins the subjects of tokens that clients have for themselves.
// No account has such a subject.
const clientPrefix = "client:"

func clientSubject(id string) string { return clientPrefix + id }

// NewClient is a client to be registered.
type NewClient struct {
	ID     string     // client_id, 1 to 128 visible ASCII characters; empty: one is made up
	Method AuthMethod // empty: SecretBasic
	ClientSettings
}

// ClientSettings are what of a client can be changed.
type ClientSettings struct {
	Name     string
	Keys     json.RawMessage // of a client with PrivateKeyJWT: a JSON Web Key Set of its public keys, 1 to 16
	Grants   []string        // GrantRefresh, GrantClient or both
	Scopes   []string        // members that the scope of its tokens may have (RFC 6749, section 3.3)
	Audience []string        // aud of its tokens; none: the server's
}

// CreateClient registers a client and returns its secret, which is shown this
// once; empty where its method has none. A client_id that sessions carry as a
// label is CodeConflict: whoever has them showed nothing of who they are.
func (i *Issuer) CreateClient(ctx context.Context, by Actor, n NewClient) (Client, string, error) {
	c := Client{ID: n.ID, Method: n.Method}
	setDefault(&c.ID, c.ID == "", newID("c_"))
	setDefault(&c.Method, c.Method == "", SecretBasic)
	switch {
	case !visible(c.ID, 1, maxClientID):
		return Client{}, "", refuse(CodeInvalid, "client_id: want 1 to 128 visible ASCII characters")
	case !slices.Contains([]AuthMethod{SecretBasic, SecretPost, PrivateKeyJWT, NoMethod}, c.Method):
		return Client{}, "", refuse(CodeInvalid, "method: want client_secret_basic, client_secret_post, private_key_jwt or none")
	}
	if err := i.settle(&c, n.ClientSettings); err != nil {
		return Client{}, "", err
	}
	secret := c.newSecret()
	_, err := i.store.Update(ctx, func(tx Tx) error {
		if err := vacant(tx, c.ID); err != nil {
			return err
		}
		c.Created = tx.Now()
		if err := tx.PutClient(c); err != nil {
			return err
		}
		return noteClient(tx, clientCreated, by, c.ID, "")
	})
	return c, secret, explain("client", err)
}

// vacant refuses a client_id that means something already.
func vacant(tx Tx, id string) error {
	all, err := tx.Clients()
	if err != nil {
		return err
	}
	if len(all) >= maxClients {
		return refuse(CodeFull, "%d clients are registered, as many as can be; delete one that is not used", len(all))
	}
	if slices.ContainsFunc(all, func(c Client) bool { return c.ID == id }) {
		return refuse(CodeConflict, "another client has this client_id; choose a different one")
	}
	if _, err := tx.Account(clientSubject(id)); !errors.Is(err, ErrNotFound) {
		if err == nil {
			err = refuse(CodeConflict, "an account has the subject %s, which the client's tokens would have; choose another client_id", clientSubject(id))
		}
		return err
	}
	labelled, _, err := tx.CountSessions(Match{"client_id", id}, tx.Now())
	if err == nil && labelled > 0 {
		err = refuse(CodeConflict, "%d sessions carry this client_id as a label; end them first, with a revocation of the client_id that ends sessions, or choose another", labelled)
	}
	return err
}

// settle checks settings and puts them in c.
func (i *Issuer) settle(c *Client, s ClientSettings) (err error) {
	switch {
	case !printable(s.Name, 0, 64):
		return refuse(CodeInvalid, "name: want at most 64 characters, none of them a control character")
	case len(s.Grants) == 0 || !distinct(s.Grants, func(g string) bool { return g == GrantRefresh || g == GrantClient }):
		return refuse(CodeInvalid, "grants: want refresh_token, client_credentials or both, each once")
	case c.Method == NoMethod && slices.Contains(s.Grants, GrantClient):
		return refuse(CodeInvalid, "grants: a client that cannot show who it is has no client_credentials; give it another method")
	case !distinct(s.Scopes, scopeToken):
		return refuse(CodeInvalid, "scopes: want at most %d, each once, of 1 to %d visible ASCII characters other than quotation mark and backslash", maxList, maxScopeToken)
	case !distinct(s.Audience, func(a string) bool { return visible(a, 1, 256) }):
		return refuse(CodeInvalid, "audience: want at most %d, each once, of 1 to 256 visible ASCII characters", maxList)
	}
	c.Name, c.Grants, c.Scopes, c.Audience = s.Name, s.Grants, s.Scopes, s.Audience
	if err := i.checkRoom(c); err != nil {
		return err
	}
	c.Keys, err = checkKeys(c.Method, s.Keys)
	return err
}

// checkRoom refuses a client whose tokens could get too long.
func (i *Issuer) checkRoom(c *Client) error {
	named, err := compact(append([]string{i.cfg.Issuer, strings.Join(c.Scopes, " ")}, i.audienceOf(c)...))
	if err != nil || len(named) > maxNamed {
		return refuse(CodeInvalid, "scopes: with the issuer and the audience they take %d octets of a token, and more than %d leave no room for claims; name fewer or shorter ones", len(named), maxNamed)
	}
	return nil
}

// checkRooms fails where the issuer or the audience that is configured now
// leaves a client no room that had it when it was registered.
func (i *Issuer) checkRooms(rd Reader) error {
	all, err := rd.Clients()
	if err != nil {
		return err
	}
	for _, c := range all {
		if err := i.checkRoom(&c); err != nil {
			return fmt.Errorf("client %q: %w; or start with the audience before, and change the client", c.ID, err)
		}
	}
	return nil
}

// distinct reports whether a list is not too long, and each member good and
// there once.
func distinct(list []string, good func(string) bool) bool {
	for n, one := range list {
		if !good(one) || slices.Contains(list[:n], one) {
			return false
		}
	}
	return len(list) <= maxList
}

func scopeToken(s string) bool { return visible(s, 1, maxScopeToken) && !strings.ContainsAny(s, `"\`) }

// checkKeys returns a client's key set as it is kept: of each key what it takes
// to verify.
func checkKeys(m AuthMethod, keys json.RawMessage) (json.RawMessage, error) {
	if m != PrivateKeyJWT {
		if keys != nil {
			return nil, refuse(CodeInvalid, "keys: only a client with the method private_key_jwt has any")
		}
		return nil, nil
	}
	set, err := jws.ParseKeySet(keys)
	if err != nil {
		return nil, refuse(CodeInvalid, "keys: want a JSON Web Key Set of public keys: %v", err)
	}
	if set.Len() < 1 || set.Len() > maxClientKeys {
		return nil, refuse(CodeInvalid, "keys: want 1 to %d keys for ES256, Ed25519 or RS256, each with a kid; %d of these can be used", maxClientKeys, set.Len())
	}
	return set.MarshalJSON()
}

// audienceOf returns the aud of a client's tokens.
func (i *Issuer) audienceOf(c *Client) []string {
	if c == nil || len(c.Audience) == 0 {
		return i.cfg.Audience
	}
	return c.Audience
}

// newSecret gives c a new secret and returns it, if its method has one.
func (c *Client) newSecret() string {
	if c.Method != SecretBasic && c.Method != SecretPost {
		return ""
	}
	var b [32]byte
	randomize(b[:])
	secret := "qc_" + base64.RawURLEncoding.EncodeToString(b[:])
	c.Hash = sha256.Sum256([]byte(secret))
	return secret
}

// holds reports whether a secret is one of c's.
func (c *Client) holds(secret string, now time.Time) bool {
	hash := sha256.Sum256([]byte(secret))
	current := subtle.ConstantTimeCompare(hash[:], c.Hash[:]) == 1
	previous := subtle.ConstantTimeCompare(hash[:], c.Previous[:]) == 1
	return current || previous && now.Before(c.PreviousUntil)
}

// noteClient notes in the audit what was done to a client.
func noteClient(tx Tx, e Event, by Actor, id, reason string) error {
	detail, err := Target{Claim: "client_id", Value: id}.detail()
	if err != nil {
		return err
	}
	return tx.AppendAudit(AuditEntry{Time: tx.Now(), Event: e.Name, Actor: by.Name, Address: by.Address, Reason: reason, Detail: detail})
}

// Client returns a registered client.
func (i *Issuer) Client(ctx context.Context, id string) (c Client, err error) {
	err = i.store.View(ctx, func(rd Reader) error {
		c, err = rd.Client(id)
		return err
	})
	return c, explain("client", err)
}

// Clients lists the registered clients, in the order of their ids: a thousand
// at most.
func (i *Issuer) Clients(ctx context.Context) (all []Client, err error) {
	err = i.store.View(ctx, func(rd Reader) error {
		all, err = rd.Clients()
		return err
	})
	return all, explain("client", err)
}

// ReplaceClientSecret gives a client a new secret; the old one goes on working
// for the overlap, 0 to 30 days. A client whose method has no secret is
// CodeConflict.
func (i *Issuer) ReplaceClientSecret(ctx context.Context, by Actor, id string, overlap time.Duration) (c Client, secret string, err error) {
	if overlap < 0 || overlap > 30*24*time.Hour {
		return c, "", refuse(CodeInvalid, "overlap: want 0 to 30 days, got %v", overlap)
	}
	_, err = i.store.Update(ctx, func(tx Tx) error {
		if c, err = tx.Client(id); err != nil {
			return err
		}
		c.Previous, c.PreviousUntil = c.Hash, tx.Now().Add(overlap)
		if secret = c.newSecret(); secret == "" {
			return refuse(CodeConflict, "a client with the method %s has no secret", c.Method)
		}
		if err := tx.PutClient(c); err != nil {
			return err
		}
		return noteClient(tx, clientReplaced, by, id, "")
	})
	return c, secret, explain("client", err)
}

// PutClient replaces a client's settings. Where its tokens would be others with
// the new ones, those that it has die, and its next refresh gives such.
func (i *Issuer) PutClient(ctx context.Context, by Actor, id string, s ClientSettings, t Target) (Effect, error) {
	out, err := i.update(ctx, t.DryRun, func(tx Tx, out *Effect) error {
		was, err := tx.Client(id)
		if err != nil {
			return err
		}
		c := was
		if err := i.settle(&c, s); err != nil {
			return err
		}
		if err := tx.PutClient(c); err != nil {
			return err
		}
		t.Claim, t.Value = "client_id", id
		if slices.Equal(was.Grants, c.Grants) && slices.Equal(was.Scopes, c.Scopes) && slices.Equal(was.Audience, c.Audience) {
			out.Event = ClientChanged.Name
			return errors.Join(checkReason(t.Reason), noteClient(tx, ClientChanged, by, id, t.Reason))
		}
		return i.apply(tx, ClientChanged, by, t, out)
	})
	return out, explain("client", err)
}

// DeleteClient deletes a client, ends its sessions and revokes its client_id.
func (i *Issuer) DeleteClient(ctx context.Context, by Actor, id string, t Target) (Effect, error) {
	out, err := i.update(ctx, t.DryRun, func(tx Tx, out *Effect) error {
		if _, err := tx.Client(id); err != nil {
			return err
		}
		t.Claim, t.Value = "client_id", id
		if err := i.apply(tx, ClientDeleted, by, t, out); err != nil {
			return err
		}
		return tx.DeleteClient(id)
	})
	return out, explain("client", err)
}

// enlist notes in a session that is about to be opened whether its client is
// registered, and what is granted to it: what is asked for, or all that it may
// have. It returns the client, nil where it is not registered. A client that
// would have to show who it is gets a session only from a caller that is
// trusted to know.
func enlist(rd Reader, s *Session, asked string, trusted bool) (*Client, error) {
	c, err := rd.Client(s.Client)
	switch {
	case errors.Is(err, ErrNotFound) && asked != "":
		return nil, refuse(CodeScope, "scope: the client is not registered, so nothing is granted to it")
	case errors.Is(err, ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case !trusted && c.Method != NoMethod:
		return nil, refuse(CodeUnauthorizedClient, "this client has to show who it is, which a login cannot: open its sessions with an API key")
	case !slices.Contains(c.Grants, GrantRefresh):
		return nil, errNoGrant(GrantRefresh)
	}
	s.Registered = true
	s.Scope, err = narrow(asked, c.Scopes)
	return &c, err
}

// entitled returns the registered client of a session, nil where there is none,
// and the scope of an access token for which asked was asked.
func entitled(rd Reader, s Session, asked string) (*Client, string, error) {
	if !s.Registered {
		scope, err := narrow(asked, nil)
		return nil, scope, err
	}
	c, err := rd.Client(s.Client)
	switch {
	case errors.Is(err, ErrNotFound):
		return nil, "", errGrant
	case err != nil:
		return nil, "", err
	case !slices.Contains(c.Grants, GrantRefresh):
		return nil, "", errNoGrant(GrantRefresh)
	}
	granted := strings.Fields(s.Scope)
	granted = slices.DeleteFunc(granted, func(one string) bool { return !slices.Contains(c.Scopes, one) })
	scope, err := narrow(asked, granted)
	return &c, scope, err
}

func errNoGrant(grant string) error {
	return refuse(CodeUnauthorizedClient, "the client is not allowed the grant %s", grant)
}

// narrow returns what of a scope is asked for: all of it where nothing is. What
// goes beyond it is CodeScope.
func narrow(asked string, granted []string) (string, error) {
	if asked == "" {
		return strings.Join(granted, " "), nil
	}
	want := strings.Split(asked, " ")
	for _, one := range want {
		if !slices.Contains(granted, one) {
			return "", refuse(CodeScope, "scope: more is asked for than was granted")
		}
	}
	kept := slices.DeleteFunc(slices.Clone(granted), func(one string) bool { return !slices.Contains(want, one) })
	return strings.Join(kept, " "), nil
}
