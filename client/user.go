package client

import "context"

// Login opens a session for an account by its password. CodeCredentials says
// no more than that no account has this name and password.
func (c *Client) Login(ctx context.Context, r LoginRequest) (Tokens, error) {
	return call[Tokens](ctx, c, request{method: "POST", path: []string{"v1", "login"}, body: r})
}

// Refresh gives the successor of a refresh token and a new access token. The
// answer to a call that was lost can be had again: for ten seconds by the same
// token, and for as long as the successor is unused by the same token and the
// same idempotencyKey, of at most 255 printable ASCII characters, which may be
// empty. CodeGrant, and no other code, means that the session has ended.
func (c *Client) Refresh(ctx context.Context, refreshToken, idempotencyKey string) (Tokens, error) {
	return call[Tokens](ctx, c, request{
		method: "POST", path: []string{"v1", "refresh"},
		retry: idempotencyKey, body: RefreshRequest{refreshToken},
	})
}

// Logout ends the session of a refresh token. It succeeds where the session
// has ended before.
func (c *Client) Logout(ctx context.Context, refreshToken string) (Effect, error) {
	return call[Effect](ctx, c, request{method: "POST", path: []string{"v1", "logout"}, body: RefreshRequest{refreshToken}})
}

// LogoutByAccessToken ends the session of an access token, which may have
// expired.
func (c *Client) LogoutByAccessToken(ctx context.Context, accessToken string) (Effect, error) {
	return call[Effect](ctx, c, request{method: "POST", path: []string{"v1", "logout"}, bearer: accessToken})
}

// LogoutOthers ends all sessions of the access token's subject but its own.
func (c *Client) LogoutOthers(ctx context.Context, accessToken string) (Effect, error) {
	return call[Effect](ctx, c, request{method: "POST", path: []string{"v1", "logout", "others"}, bearer: accessToken})
}

// LogoutAll ends all sessions of the access token's subject.
func (c *Client) LogoutAll(ctx context.Context, accessToken string) (Effect, error) {
	return call[Effect](ctx, c, request{method: "POST", path: []string{"v1", "logout", "all"}, bearer: accessToken})
}

// Sessions lists the sessions of the access token's subject.
func (c *Client) Sessions(ctx context.Context, accessToken string) ([]Session, error) {
	page, err := call[Page[Session]](ctx, c, request{method: "GET", path: []string{"v1", "sessions"}, bearer: accessToken})
	return page.Items, err
}

// EndSession ends one session of the access token's subject.
func (c *Client) EndSession(ctx context.Context, accessToken, session string) (Effect, error) {
	return call[Effect](ctx, c, request{method: "DELETE", path: []string{"v1", "sessions", session}, bearer: accessToken})
}

// ChangePassword changes the password of the session's account, ends its other
// sessions and every access token, and gives this session new tokens. The
// idempotencyKey is that of [Client.Refresh]; the same call again completes a
// change whose answer was lost.
func (c *Client) ChangePassword(ctx context.Context, r PasswordChange, idempotencyKey string) (PasswordChanged, error) {
	return call[PasswordChanged](ctx, c, request{method: "POST", path: []string{"v1", "password"}, retry: idempotencyKey, body: r})
}

// Account returns the account of the access token's subject.
func (c *Client) Account(ctx context.Context, accessToken string) (Account, error) {
	return call[Account](ctx, c, request{method: "GET", path: []string{"v1", "account"}, bearer: accessToken})
}

// Ready returns nil where the listener is ready to serve. Both listeners
// answer.
func (c *Client) Ready(ctx context.Context) error {
	_, err := call[struct{}](ctx, c, request{method: "GET", path: []string{"readyz"}})
	return err
}
