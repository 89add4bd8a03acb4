package issuer

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/quashdev/quash/internal/jws"
	"github.com/quashdev/quash/internal/revset"
)

// ClientCredentials gives a client an access token of its own (RFC 6749,
// section 4.4), of the scope that it asks for, or of all that it may have. It
// has no session and no refresh token, and a subject that no account has.
func (i *Issuer) ClientCredentials(ctx context.Context, by Client, scope string) (Grant, error) {
	if err := i.hasRoom(); err != nil {
		return Grant{}, err
	}
	g, err := i.issue(ctx, func(tx Tx) (draft, error) {
		c, err := tx.Client(by.ID)
		switch {
		case errors.Is(err, ErrNotFound):
			return draft{}, errClient
		case err != nil:
			return draft{}, err
		case !slices.Contains(c.Grants, GrantClient):
			return draft{}, errNoGrant(GrantClient)
		}
		granted, err := narrow(scope, c.Scopes)
		if err != nil {
			return draft{}, err
		}
		own := Account{Subject: clientSubject(c.ID), Claims: json.RawMessage("{}")}
		return i.stamped(tx, draft{account: own, session: Session{Client: c.ID}, client: &c, scope: granted})
	})
	return g, explain("client", err)
}

// as is a client as an actor.
func (c Client) as(address string) Actor { return Actor{Name: clientSubject(c.ID), Address: address} }

var errOtherClient = refuse(CodeGrant, "the token was issued to another client")

// RevokeToken ends what a client's token stands for (RFC 7009). A refresh token
// and an access token end their session alike: a client that gives one of them
// back has no more use for the other, and the other would go on giving tokens.
// An access token of the client's own is revoked by its jti. A token that is
// unknown, malformed or dead already is no error and has no effect; another
// client's is CodeGrant, and nothing happens to it.
func (i *Issuer) RevokeToken(ctx context.Context, by Client, token, address string) (Effect, error) {
	if t, ok := parseRefreshToken(token); ok {
		return i.endByRefreshToken(ctx, by.as(address), t, &by)
	}
	a, err := i.accessToken(ctx, token)
	switch {
	case CodeOf(err) == CodeToken && err != nil:
		return Effect{Event: LoggedOut.Name}, nil
	case err != nil:
		return Effect{}, err
	case a.texts["client_id"] != by.ID:
		return Effect{}, errOtherClient
	case a.texts["sid"] != "":
		return i.change(ctx, LoggedOut, by.as(address), Target{Subject: a.texts["sub"], Session: a.texts["sid"]})
	case a.expires.Before(time.Now().Add(-forgetMargin)):
		return Effect{Event: ClaimRevoked.Name}, nil
	}
	return i.revokeOwn(ctx, by.as(address), a)
}

// revokeOwn revokes an access token that a client has for itself, once. Most of
// the log is looked through before the transaction, which others wait for.
func (i *Issuer) revokeOwn(ctx context.Context, by Actor, a accessToken) (Effect, error) {
	named := Match{"jti", a.texts["jti"]}
	var from uint64
	err := i.store.View(ctx, func(rd Reader) (err error) {
		_, from, err = i.revokedSince(rd, named, a.rev)
		return err
	})
	if err != nil {
		return Effect{}, explain("token", err)
	}
	out, err := i.update(ctx, false, func(tx Tx, out *Effect) error {
		out.Event = ClaimRevoked.Name
		revoked, _, err := i.revokedSince(tx, named, from)
		if err != nil || revoked {
			return err
		}
		return i.apply(tx, ClaimRevoked, by, Target{Subject: a.texts["sub"], Claim: named.Claim, Value: named.Value}, out)
	})
	return out, explain("token", err)
}

// revokedSince reports whether a live revocation after a position names m, and
// up to which position none does.
func (i *Issuer) revokedSince(rd Reader, m Match, after uint64) (revoked bool, until uint64, err error) {
	l, err := rd.Log()
	if err != nil {
		return false, 0, err
	}
	key := revset.KeyOf(l.HashSecret, i.cfg.Issuer, m.Claim, m.Value)
	for after = max(after, l.Pruned.Position); after < l.Head.Position; {
		page, mark, err := rd.Records(after, maxListed)
		if err != nil {
			return false, 0, err
		}
		if slices.ContainsFunc(page, func(r revset.Record) bool { return r.Key == key }) {
			return true, after, nil
		}
		if len(page) == 0 {
			break
		}
		after = mark.Position
	}
	return false, after, nil
}

// of reports whether a session is a registered client's.
func (s Session) of(c Client) bool { return s.Registered && s.Client == c.ID }

// accessToken is an access token of this issuer, signed with a key that is
// published. It may have expired or been revoked.
type accessToken struct {
	kid      string
	payload  []byte
	texts    map[string]string // claims that are strings
	audience []string
	issued   time.Time
	expires  time.Time
	rev      uint64
}

var errAccessToken = refuse(CodeToken, "the access token was not issued here")

// accessToken reads an access token; CodeToken where it is no such.
func (i *Issuer) accessToken(ctx context.Context, token string) (accessToken, error) {
	t, err := parseAccessToken(token)
	if err != nil {
		return accessToken{}, err
	}
	keys, err := i.PublicKeys(ctx)
	if err != nil {
		return accessToken{}, err
	}
	return i.verified(t, keys)
}

func parseAccessToken(token string) (*jws.Token, error) {
	t := new(jws.Token)
	if err := t.Parse(token); err != nil || (t.Header.Type != "at+jwt" && t.Header.Type != "application/at+jwt") {
		return nil, errAccessToken
	}
	return t, nil
}

// verified reads a token that one of the keys signed.
func (i *Issuer) verified(t *jws.Token, keys *jws.KeySet) (a accessToken, err error) {
	key, ok := keys.Key(t.Header.KeyID)
	if !ok || key.Verify(t) != nil {
		return a, errAccessToken
	}
	members, err := jws.Members(nil, t.Payload)
	if err != nil {
		return a, errAccessToken
	}
	a = accessToken{kid: t.Header.KeyID, payload: t.Payload, texts: map[string]string{}}
	for _, m := range members {
		if text, ok := jws.String(m.Value); ok {
			a.texts[m.Name] = text
		}
		n, _ := jws.Integer(m.Value)
		switch m.Name {
		case "aud":
			a.audience, _ = audiences(m.Value)
		case "iat":
			a.issued = time.Unix(n, 0)
		case "exp":
			a.expires = time.Unix(n, 0)
		case "rev":
			a.rev = uint64(max(n, 0))
		}
	}
	if a.texts["iss"] != i.cfg.Issuer || a.texts["sub"] == "" {
		return a, errAccessToken
	}
	return a, nil
}

// carries are the claims that revocations could name the token by.
func (a *accessToken) carries() []Match {
	carried := slices.DeleteFunc(Account{Claims: a.payload}.ClaimValues(), func(m Match) bool { return m.Claim == "kid" })
	return append(carried, Match{"kid", a.kid}) // which is the header's alone
}

// Inspected is what is known of a token that a client asks about.
type Inspected struct {
	// Known says that the token is this issuer's, has not expired, and is the
	// client's to know of. All else is zero where it is not.
	Known    bool
	Refresh  bool // it is a refresh token, and its session goes on
	Client   string
	Subject  string
	Session  string
	ID       string // of an access token
	Scope    string
	Audience []string // of an access token
	Issued   time.Time
	Expires  time.Time

	// An access token is dead where a revocation up to Head kills what was
	// issued at Rev and carries one of these claims.
	Carried   []Match
	Rev, Head uint64
}

// Inspect reads a token for a client (RFC 7662): an access token that was issued
// to it or has it in its aud, or its own refresh token. It carries out what waits
// in the outbox first.
func (i *Issuer) Inspect(ctx context.Context, by Client, token string) (Inspected, error) {
	if t, ok := parseRefreshToken(token); ok {
		return i.inspectRefreshToken(ctx, by, t)
	}
	t, err := parseAccessToken(token)
	if err != nil {
		return Inspected{}, nil
	}
	var l Log
	var keys *jws.KeySet
	var now time.Time
	err = i.settled(ctx, func(rd Reader) (err error) {
		if l, err = rd.Log(); err != nil {
			return err
		}
		now = rd.Now()
		keys, err = publicKeys(rd, l)
		return err
	})
	if err != nil {
		return Inspected{}, explain("token", err)
	}
	a, err := i.verified(t, keys)
	if err != nil || a.texts["client_id"] != by.ID && !slices.Contains(a.audience, by.ID) || !now.Before(a.expires) {
		return Inspected{}, nil
	}
	return Inspected{
		Known: true, Client: a.texts["client_id"], Subject: a.texts["sub"], Session: a.texts["sid"], ID: a.texts["jti"],
		Scope: a.texts["scope"], Audience: a.audience, Issued: a.issued, Expires: a.expires,
		Carried: a.carries(), Rev: a.rev, Head: l.Head.Position,
	}, nil
}

// inspectRefreshToken knows the current token of a session. One before it is
// as good as used, whatever a retry would give.
func (i *Issuer) inspectRefreshToken(ctx context.Context, by Client, t refreshToken) (in Inspected, err error) {
	err = i.settled(ctx, func(rd Reader) error {
		in = Inspected{}
		s, err := rd.Session(t.session)
		if errors.Is(err, ErrNotFound) {
			return nil
		}
		if err != nil || !s.of(by) || i.judge(s, t, [32]byte{}, rd.Now()) != rotate {
			return err
		}
		in = Inspected{
			Known: true, Refresh: true, Client: s.Client, Subject: s.Subject, Session: s.ID, Scope: s.Scope, Issued: s.Rotated, Expires: s.Expires,
		}
		return nil
	})
	return in, explain("session", err)
}
