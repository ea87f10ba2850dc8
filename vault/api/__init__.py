"""The REST API's frame, and its vault side.

To add an endpoint (cloudkeys/api/ does so on this frame):

1. Write an `ApiView` (vault.api.endpoints), one class for each path, methods get/post/patch/put/delete:

       class KeySetList(ApiView):
           @operation("key_sets_list", summary="List key sets", description="...", tag="Key sets",
                      response=KeySetSerializer, example=EXAMPLE, listing=LISTING)
           def get(self, request):
               vault = vault_of(request, Permission.KEY_SETS_VIEW)
               return page(request, request.actor.visible(KeySet).filter(vault=vault), LISTING, KeySetSerializer)

           @operation("key_sets_create", summary="...", description="...", tag="Key sets", request=CreateKeySetSerializer,
                      request_example=..., response=KeySetCreatedSerializer, status=201, example=..., replay=Replay(KeySet, _read_again))
           def post(self, request):
               vault = vault_of(request, Permission.KEY_SETS_MANAGE, request.data_in.pop("vault", None))
               key_set = create_key_set(request.actor, vault, **request.data_in)
               return created(key_set, KeySetSerializer(key_set).data, location=f"/api/v1/key-sets/{key_set.pk}")

       class KeySetDetail(ApiView):
           @operation("key_sets_update", ..., if_match="required", etag=True)
           def patch(self, request, key_set_id):
               row = update_key_set(request.actor, key_set_id, expected_revision=request.expected, **request.data_in)
               return detail(row, KeySetSerializer(row).data)

2. `operation` enforces what it declares: StrictSerializer body (unknown fields are 400) as `request.data_in`, unknown query
   parameters 400, If-Match as `request.expected` (428 when missing), Idempotency-Key (`replay`), who may call at all.
   Authorisation proper is the service's: `actor.fetch`, `actor.require`, `actor.visible`.
3. Errors: raise vault.errors; a new code is one row in vault.api.problems.PROBLEMS. Long work: `accepted(operation.pk, data)`.
   The data plane's confirmation: `confirmation_data(...)` with ConfirmationSerializer.
4. A POST that creates gives `replay` (vault.api.idempotency.Replay): the model that it makes, and a function (request, Made) -> dict
   that reads what was made through `actor.fetch`, with secrets as None. Its response serializer derives from CreatedMixin.
5. Paths are flat, plural, hyphenated and without a slash at the end: path("api/v1/key-sets/<uuid:key_set_id>", ...); the owning vault
   is the query parameter `vault` of lists and the field `vault` of bodies, both optional where there is only one. Path parameters end
   in `_id`. Include the app's urlpatterns in vault/urls.py *before* vault.api.urls, whose last entry answers 404 for the rest.
6. Add a row for each method to tests/api_matrix.py; a test names those that are missing.
"""
