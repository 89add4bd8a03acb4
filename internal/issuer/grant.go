package issuer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/quashdev/quash/internal/jws"
)

// Grant is what a login or refresh gives: a pair of tokens.
type Grant struct {
	AccessToken  string
	RefreshToken string        // empty where there is no session
	ExpiresIn    time.Duration // of the access token
	Scope        string        // of the access token
	Ends         time.Duration // until the session ends, unless it is refreshed before
	Session      string
	Subject      string
}

// maxClockSkew between this machine and the database, beyond which tokens
// would carry times that the log does not keep revocations for.
const maxClockSkew = 10 * time.Second

// draft is a grant before its transaction has committed: what the snapshot
// said. Nothing is signed until then.
type draft struct {
	account Account
	session Session // without an ID where there is none
	client  *Client // nil where it is not registered
	scope   string
	signer  *jws.PrivateKey
	rev     uint64
	issued  time.Time
	expires time.Time
}

// draftFor reads what a token for the draft's session says, notes its expiry in
// the session's row, and writes the row.
func (i *Issuer) draftFor(tx Tx, d draft) (draft, error) {
	d, err := i.stamped(tx, d)
	if err != nil {
		return draft{}, err
	}
	d.session.Tokens = appendExpiry(d.session.Tokens, tx.Now(), d.expires)
	return d, tx.PutSession(d.session)
}

// stamped reads what a token says that is the same for all issued now.
func (i *Issuer) stamped(tx Tx, d draft) (draft, error) {
	now := tx.Now()
	if skew := time.Since(now).Abs(); skew > maxClockSkew {
		return draft{}, refuse(CodeUnavailable, "the clocks of this machine and the database are %v apart; no tokens are issued until they agree", skew.Round(time.Second))
	}
	log, err := tx.Log()
	if err != nil {
		return draft{}, err
	}
	key, err := currentKey(tx)
	if err != nil {
		return draft{}, err
	}
	signer, err := i.signer(key)
	if err != nil {
		return draft{}, err
	}
	d.signer, d.rev, d.issued = signer, log.Head.Position, now.Truncate(time.Second)
	d.expires = d.issued.Add(i.cfg.TokenLifetime)
	if end := d.session.Expires.Truncate(time.Second); d.session.ID != "" && end.Before(d.expires) {
		d.expires = end
	}
	return d, nil
}

// maxTokens is how many expiries of a session's tokens its row keeps.
const maxTokens = 32

func appendExpiry(expiries []uint32, now, expires time.Time) []uint32 {
	live := slices.DeleteFunc(slices.Clone(expiries), func(e uint32) bool { return int64(e) <= now.Unix() })
	live = append(live, uint32(expires.Unix()))
	return live[max(0, len(live)-maxTokens):]
}

// grant signs what was drafted. The transaction must have committed.
func (i *Issuer) grant(d draft) (Grant, error) {
	claims, err := i.claims(d)
	if err != nil {
		return Grant{}, err
	}
	token, err := d.signer.Sign("at+jwt", claims)
	if err != nil {
		return Grant{}, fmt.Errorf("sign an access token: %w", err)
	}
	g := Grant{AccessToken: token, ExpiresIn: d.expires.Sub(d.issued), Scope: d.scope, Session: d.session.ID, Subject: d.account.Subject}
	if g.Session != "" {
		g.RefreshToken = i.refreshTokenOf(d.session, d.session.Counter)
		g.Ends = min(d.session.Expires.Sub(d.issued), i.cfg.IdleTimeout)
	}
	return g, nil
}

// claims returns the payload of RFC 9068, section 2.2, with sid, rev and the
// account's own claims. The scope (section 2.2.3) of a registered client's token
// is what was granted to it.
func (i *Issuer) claims(d draft) ([]byte, error) {
	claims := map[string]any{}
	members, err := jws.Members(nil, d.account.Claims)
	if err != nil {
		return nil, fmt.Errorf("claims of %s: %w", d.account.Subject, err)
	}
	for _, m := range members {
		claims[m.Name] = json.RawMessage(m.Value)
	}
	if d.client != nil {
		delete(claims, "scope") // which is the issuer's to say
	}
	if d.scope != "" {
		claims["scope"] = d.scope
	}
	claims["iss"] = i.cfg.Issuer
	claims["sub"] = d.account.Subject
	audience := i.audienceOf(d.client)
	claims["aud"] = audience
	if len(audience) == 1 {
		claims["aud"] = audience[0]
	}
	claims["client_id"] = d.session.Client
	claims["iat"] = d.issued.Unix()
	claims["exp"] = d.expires.Unix()
	claims["jti"] = newID("")
	if d.session.ID != "" {
		claims["sid"] = d.session.ID
	}
	claims["rev"] = d.rev
	return compact(claims)
}

// compact encodes a value as JSON without escaping what only HTML would need:
// [maxNamed] is worked out so.
func compact(value any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(value)
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), err
}

// issue runs fn in an issuing transaction and signs what it drafted.
func (i *Issuer) issue(ctx context.Context, fn func(Tx) (draft, error)) (Grant, error) {
	var d draft
	err := i.issuing(ctx, func(tx Tx) (err error) {
		d, err = fn(tx)
		return err
	})
	if err != nil {
		return Grant{}, err
	}
	g, err := i.grant(d)
	if err != nil {
		err = &Error{Code: CodeUnavailable, Detail: "the session was saved, but its tokens could not be signed; the server's log says why", cause: err}
	}
	return g, err
}

// LoginRequest is what somebody logs in with.
type LoginRequest struct {
	Name     string
	Password string
	Device
}

// Device describes where a session is used.
type Device struct {
	Client  string // client_id; empty: the configured one
	Device  string // in the user's words, shown in the list of sessions; at most 128 characters
	Address string
	Scope   string // asked for, its members separated by spaces; empty: all that the client may have
}

// Login opens a session for an account by its password. An account that is
// not there, one without a password, one that was deactivated and a wrong
// password all take the same path and get the same CodeCredentials.
func (i *Issuer) Login(ctx context.Context, r LoginRequest) (Grant, error) {
	if err := i.checkDevice(&r.Device); err != nil {
		return Grant{}, err
	}
	name, err := accountName(r.Name)
	if err != nil {
		name = "" // nobody's, which takes the same path
	}
	if err := i.limits.login(ctx, name, r.Address); err != nil {
		return Grant{}, err
	}
	for again := false; ; again = true {
		a, outdated, err := i.checkLogin(ctx, name, r.Password)
		if err != nil {
			return Grant{}, err
		}
		g, err := i.openSession(ctx, User(r.Address), loggedIn, a.Subject, &a.Password, r.Device)
		if errors.Is(err, errRehashed) && !again {
			continue // another login may have renewed the hash of the same password
		}
		if err == nil && outdated {
			i.renewHash(ctx, a, r.Password)
		}
		return g, err
	}
}

// checkLogin returns the account that has the name and the password.
func (i *Issuer) checkLogin(ctx context.Context, name, password string) (a Account, outdated bool, err error) {
	err = i.store.View(ctx, func(rd Reader) (err error) {
		a, err = rd.AccountNamed(name)
		return err
	})
	if err != nil && !errors.Is(err, ErrNotFound) {
		return a, false, explain("account", err)
	}
	good, outdated, err := i.hashes.verify(ctx, password, a.Password)
	if err == nil && (!good || a.Deactivated) {
		err = errCredentials
	}
	return a, outdated, err
}

var errCredentials = refuse(CodeCredentials, "no account has this name and password")

// errRehashed is errCredentials where the password was good for a hash that is
// not the account's any more.
var errRehashed = refuse(CodeCredentials, "%s", errCredentials.Detail)

// OpenSession opens a session for a subject whose password the caller has
// checked, or that needs none.
func (i *Issuer) OpenSession(ctx context.Context, by Actor, subject string, d Device) (Grant, error) {
	if err := i.checkDevice(&d); err != nil {
		return Grant{}, err
	}
	return i.openSession(ctx, by, sessionOpened, subject, nil, d)
}

// errCrowded says that a session must end before another can be opened.
var errCrowded = errors.New("too many sessions")

// openSession opens a session unless the account's password hash is no longer
// the one that was checked, because a change came in between.
func (i *Issuer) openSession(ctx context.Context, by Actor, e Event, subject string, checked *string, d Device) (Grant, error) {
	if err := i.hasRoom(); err != nil {
		return Grant{}, err
	}
	s, standing := i.newSession(subject, d), "nothing changed"
	for {
		g, err := i.issue(ctx, func(tx Tx) (draft, error) {
			a, err := tx.Account(subject)
			switch {
			case errors.Is(err, ErrNotFound) && checked != nil:
				return draft{}, errCredentials
			case err != nil:
				return draft{}, err
			case checked != nil && a.Deactivated:
				return draft{}, errCredentials
			case checked != nil && a.Password != *checked:
				return draft{}, errRehashed
			case a.Deactivated:
				return draft{}, refuse(CodeConflict, "the account is deactivated; reactivate it first")
			}
			n, _, err := tx.CountSessions(Match{"sub", subject}, tx.Now())
			if err != nil {
				return draft{}, err
			}
			if n >= i.cfg.MaxSessions {
				return draft{}, errCrowded
			}
			opened := s
			opened.Created, opened.LastUsed, opened.Rotated = tx.Now(), tx.Now(), tx.Now()
			opened.Expires = tx.Now().Add(i.cfg.AbsoluteTimeout)
			if err := tx.AppendAudit(AuditEntry{Time: tx.Now(), Event: e.Name, Actor: by.Name, Address: d.Address, Subject: subject, Session: s.ID}); err != nil {
				return draft{}, err
			}
			c, err := enlist(tx, &opened, d.Scope, checked == nil)
			if err != nil {
				return draft{}, err
			}
			return i.draftFor(tx, draft{account: a, session: opened, client: c, scope: opened.Scope})
		})
		if !errors.Is(err, errCrowded) {
			return g, explainAfter(standing, "account", err)
		}
		evicted, err := i.evict(ctx, subject)
		if err != nil {
			return Grant{}, explainAfter(standing, "session", err)
		}
		if evicted {
			standing = "another session was ended to make room and none was opened"
		}
	}
}

// hasRoom refuses to give what can end in one more revocation where too many
// are live.
func (i *Issuer) hasRoom() error {
	if live := i.cfg.Live(); live > i.cfg.MaxLive/10*9 {
		return &Error{Code: CodeFull, Detail: "too many revocations are live to open more sessions; try again when some have expired", RetryAfter: time.Minute}
	}
	return nil
}

// evict ends the session of a subject that was unused for longest. It looks
// again, because others may have ended since.
func (i *Issuer) evict(ctx context.Context, subject string) (evicted bool, err error) {
	out, err := i.update(ctx, false, func(tx Tx, out *Effect) error {
		n, _, err := tx.CountSessions(Match{"sub", subject}, tx.Now())
		if err != nil || n < i.cfg.MaxSessions {
			return err
		}
		oldest, err := tx.Oldest(Match{"sub", subject})
		if err != nil {
			return err
		}
		return i.apply(tx, SessionEvicted, system, Target{Subject: subject, Session: oldest.ID}, out)
	})
	return out.Sessions > 0, err
}

// RefreshRequest presents a refresh token.
type RefreshRequest struct {
	Token          string
	IdempotencyKey string // so that the same call can be repeated whenever its answer was lost; at most 255 characters
	Address        string
	// Client is the registered client that presents it and has shown who it is.
	// Nil: nobody has, and a token of a client that can is CodeGrant.
	Client *Client
	// Scope of the access token, at most what the session was granted, which
	// does not change. Empty: all of that.
	Scope string
	// Shared says that tabs share the token, each with a refresh of its own. One
	// that is current for less than ten seconds is then given again instead of a
	// successor, lest a refresh that is still on its way be two behind.
	Shared bool
}

// errReuse says that a refresh ran into reuse and must start again as a
// change that ends the session.
var errReuse = errors.New("refresh token reused")

var errGrant = refuse(CodeGrant, "the refresh token is not valid any more; log in again")

// Refresh gives the successor of a refresh token and a new access token. The
// current token rotates. The one before it gets the same successor again
// within ten seconds, or at any time with the Idempotency-Key of the call
// that rotated it. Anything older ends the session (RFC 9700, section 4.14.2).
// All that is wrong with a token is CodeGrant. One that another client presents
// stays as it is, and so does one for which too wide a scope is asked.
func (i *Issuer) Refresh(ctx context.Context, r RefreshRequest) (Grant, error) {
	p, err := r.read()
	if err != nil {
		return Grant{}, err
	}
	g, err := i.issue(ctx, func(tx Tx) (draft, error) { return i.rotate(tx, p) })
	if errors.Is(err, errReuse) {
		err = i.endReused(ctx, p)
	}
	return g, explain("session", err)
}

// presented is a refresh token that somebody presented.
type presented struct {
	refreshToken
	retryKey [sha256.Size]byte
	address  string
	client   *Client
	scope    string
	shared   bool
	// at is when it was judged first, zero before that. A call of several
	// transactions judges as of then in all of them, lest the window close
	// between two and make an honest client a thief.
	at time.Time
}

func (r RefreshRequest) read() (p presented, err error) {
	var ok bool
	if p.refreshToken, ok = parseRefreshToken(r.Token); !ok {
		return p, errGrant
	}
	p.address, p.client, p.scope, p.shared = r.Address, r.Client, r.Scope, r.Shared
	p.retryKey, err = retryKeyOf(r.IdempotencyKey)
	return p, err
}

// admit returns the session of a refresh token that deserves a successor, and
// which. Any other token is errReuse or errGrant.
func (i *Issuer) admit(rd Reader, p presented) (Session, verdict, error) {
	s, err := rd.Session(p.session)
	if errors.Is(err, ErrNotFound) {
		return s, forged, errGrant
	}
	if err != nil {
		return s, forged, err
	}
	setDefault(&p.at, p.at.IsZero(), rd.Now())
	v := i.judge(s, p.refreshToken, p.retryKey, p.at)
	if v != forged {
		if err := presentable(rd, s, p.client); err != nil {
			return s, forged, err
		}
	}
	switch v {
	case rotate, repeat:
		return s, v, nil
	case reuse:
		return s, v, errReuse
	case ahead:
		i.cfg.Logger.Error("alarm: a refresh token is ahead of its session, so the database has lost its latest changes: it was restored, or failed over to a copy that lagged; sessions and revocations of that time are lost too: run quash restore of a good backup, or have everybody log in again", "session", s.ID, "presented", p.counter, "stored", s.Counter)
	}
	return s, v, errGrant
}

// presentable refuses a token of a session that another than its client
// presents. It comes before the token is judged: it is nobody's reuse.
func presentable(rd Reader, s Session, by *Client) error {
	switch {
	case by != nil && !s.of(*by):
		return errGrant
	case by != nil || !s.Registered:
		return nil
	}
	c, err := rd.Client(s.Client)
	switch {
	case errors.Is(err, ErrNotFound):
		return errGrant
	case err == nil && c.Method != NoMethod:
		return refuse(CodeGrant, "the session's client has to show who it is: present the refresh token at /oauth/token")
	}
	return err
}

// rotate is the issuing transaction of a refresh.
func (i *Issuer) rotate(tx Tx, p presented) (draft, error) {
	s, v, err := i.admit(tx, p)
	if err != nil {
		return draft{}, err
	}
	c, scope, err := entitled(tx, s, p.scope)
	if err != nil {
		return draft{}, err
	}
	now := tx.Now()
	if v == rotate && !(p.shared && inRetryWindow(s, now)) {
		s.Counter++
		s.Rotated, s.RetryKey = now, p.retryKey
	}
	a, err := tx.Account(s.Subject)
	if err != nil {
		return draft{}, err
	}
	if a.Deactivated {
		return draft{}, errGrant
	}
	s.LastUsed = now
	if p.address != "" {
		s.Address = p.address
	}
	return i.draftFor(tx, draft{account: a, session: s, client: c, scope: scope})
}

// endReused ends the session of a token that was used before. It looks again,
// because the session may have ended or moved on since; and what it finds
// commits although the call fails, and although the caller hangs up.
func (i *Issuer) endReused(ctx context.Context, p presented) error {
	_, err := i.update(context.WithoutCancel(ctx), false, func(tx Tx, out *Effect) error {
		s, _, err := i.admit(tx, p)
		switch {
		case errors.Is(err, errReuse):
			return i.apply(tx, RefreshReused, Actor{Name: system.Name, Address: p.address}, Target{Subject: s.Subject, Session: s.ID, Reason: "a refresh token was used again"}, out)
		case errors.Is(err, errGrant):
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	return errGrant
}

func (i *Issuer) newSession(subject string, d Device) Session {
	s := Session{ID: newID(sessionPrefix), Subject: subject, Client: d.Client, Device: d.Device, Address: d.Address, Counter: 1}
	randomize(s.Secret[:])
	return s
}

func (i *Issuer) checkDevice(d *Device) error {
	setDefault(&d.Client, d.Client == "", i.cfg.Client)
	switch {
	case !visible(d.Client, 1, 128):
		return refuse(CodeInvalid, "client: want 1 to 128 visible ASCII characters")
	case !printable(d.Device, 0, 128):
		return refuse(CodeInvalid, "device: want at most 128 characters, none of them a control character")
	}
	return nil
}
