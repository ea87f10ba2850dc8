"""An AWS that runs on a laptop: KMS with external key stores, S3 with SSE-KMS, IAM and STS.

It is a real HTTP endpoint for unmodified boto3 and awscli, and its KMS really calls the XKS endpoint
of this product. Nothing here imports Django: the core takes plain parameters (see ``context.Settings``),
only the management commands read the product's settings.
"""
