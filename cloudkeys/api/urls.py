"""Addresses of this room's API."""

from __future__ import annotations

from django.urls import path

from cloudkeys.api import (
    accounts,
    bulk,
    cloud_keys,
    credentials,
    key_sets,
    operations,
    previews,
    store_links,
    stores,
    vaults,
)

_V1 = "api/v1/"
_KEY = f"{_V1}cloud-keys/<uuid:key_id>"
_LINK = f"{_V1}aws-store-links/<uuid:link_id>"
_STORE = f"{_V1}xks-key-stores/<uuid:store_id>"
_CREDENTIAL = f"{_V1}xks-credentials/<uuid:credential_id>"
_ACCOUNT = f"{_V1}csp-accounts/<uuid:account_id>"
_OPERATION = f"{_V1}operations/<uuid:operation_id>"

urlpatterns = [
    path(f"{_V1}search", previews.Search.as_view()),
    path(f"{_V1}csp-accounts/try-simulator", previews.TrySimulator.as_view()),
    path(f"{_ACCOUNT}/dependents", previews.CspAccountDependents.as_view()),
    path(f"{_V1}key-sets/<uuid:key_set_id>/schedule-effects", previews.KeySetScheduleEffects.as_view()),
    path(f"{_V1}key-sets/<uuid:key_set_id>/deletion", previews.KeySetDeletion.as_view()),
    path(f"{_LINK}/console-steps", previews.LinkConsoleSteps.as_view()),
    path(f"{_KEY}/timeline", previews.CloudKeyTimeline.as_view()),
    path(f"{_KEY}/policy", previews.CloudKeyPolicy.as_view()),
    path(f"{_V1}csp-accounts", accounts.CspAccountList.as_view()),
    path(_ACCOUNT, accounts.CspAccountDetail.as_view()),
    path(f"{_ACCOUNT}/test", accounts.CspAccountTest.as_view()),
    path(f"{_ACCOUNT}/rotate-credential", accounts.CspAccountRotate.as_view()),
    path(f"{_ACCOUNT}/policy", accounts.CspAccountPolicy.as_view()),
    path(f"{_ACCOUNT}/iam-principals", accounts.CspAccountPrincipals.as_view()),
    path(f"{_V1}key-sets", key_sets.KeySetList.as_view()),
    path(f"{_V1}key-sets/<uuid:key_set_id>", key_sets.KeySetDetail.as_view()),
    path(f"{_V1}key-sets/<uuid:key_set_id>/protection", key_sets.KeySetProtection.as_view()),
    path(f"{_V1}key-sets/<uuid:key_set_id>/adopt", key_sets.KeySetAdopt.as_view()),
    path(f"{_V1}key-sets/<uuid:key_set_id>/adopt-check", key_sets.KeySetAdoptCheck.as_view()),
    path(
        f"{_V1}key-sets/<uuid:key_set_id>/use-as-external-key-store", key_sets.KeySetExternalStore.as_view()
    ),
    path(f"{_V1}xks-key-stores", stores.StoreList.as_view()),
    path(_STORE, stores.StoreDetail.as_view()),
    path(f"{_STORE}/block", stores.StoreBlock.as_view()),
    path(f"{_STORE}/unblock", stores.StoreUnblock.as_view()),
    path(f"{_STORE}/credentials", credentials.StoreCredentials.as_view()),
    path(f"{_STORE}/rotate-credentials", credentials.StoreRotate.as_view()),
    path(f"{_STORE}/rotation", credentials.StoreRotation.as_view()),
    path(f"{_STORE}/rotation/file", credentials.StoreRotationFile.as_view()),
    path(f"{_STORE}/rotation/done", credentials.StoreRotationDone.as_view()),
    path(_CREDENTIAL, credentials.CredentialDetail.as_view()),
    path(f"{_CREDENTIAL}/retire", credentials.CredentialRetire.as_view()),
    path(f"{_V1}aws-store-links", store_links.LinkList.as_view()),
    path(_LINK, store_links.LinkDetail.as_view()),
    path(f"{_LINK}/link", store_links.LinkLink.as_view()),
    path(f"{_LINK}/connect", store_links.LinkConnect.as_view()),
    path(f"{_LINK}/disconnect", store_links.LinkDisconnect.as_view()),
    path(f"{_LINK}/refresh", store_links.LinkRefresh.as_view()),
    path(f"{_V1}cloud-keys", cloud_keys.CloudKeyList.as_view()),
    path(f"{_V1}cloud-keys/bulk", bulk.CloudKeyBulk.as_view()),
    path(f"{_V1}cloud-keys/csv", bulk.CloudKeyCsv.as_view()),
    path(f"{_V1}cloud-keys/export", bulk.CloudKeyExport.as_view()),
    path(_KEY, cloud_keys.CloudKeyDetail.as_view()),
    path(f"{_KEY}/versions", cloud_keys.CloudKeyVersions.as_view()),
    path(f"{_KEY}/create-key-step", cloud_keys.CloudKeyStep.as_view()),
    path(f"{_KEY}/disable", cloud_keys.CloudKeyDisable.as_view()),
    path(f"{_KEY}/enable", cloud_keys.CloudKeyEnable.as_view()),
    path(f"{_KEY}/block", cloud_keys.CloudKeyBlock.as_view()),
    path(f"{_KEY}/unblock", cloud_keys.CloudKeyUnblock.as_view()),
    path(f"{_KEY}/retire", cloud_keys.CloudKeyRetire.as_view()),
    path(f"{_KEY}/rotate", cloud_keys.CloudKeyRotate.as_view()),
    path(f"{_KEY}/schedule-deletion", cloud_keys.CloudKeyScheduleDeletion.as_view()),
    path(f"{_KEY}/cancel-deletion", cloud_keys.CloudKeyCancelDeletion.as_view()),
    path(f"{_KEY}/destroy", cloud_keys.CloudKeyDestroy.as_view()),
    path(f"{_KEY}/link", cloud_keys.CloudKeyLink.as_view()),
    path(f"{_KEY}/refresh", cloud_keys.CloudKeyRefresh.as_view()),
    path(f"{_V1}operations", operations.OperationList.as_view()),
    path(_OPERATION, operations.OperationDetail.as_view()),
    path(f"{_OPERATION}/retry", operations.OperationRetry.as_view()),
    path(f"{_OPERATION}/cancel", operations.OperationCancel.as_view()),
    path(f"{_V1}vaults/<uuid:vault_id>/destruction", vaults.VaultDestruction.as_view()),
]
