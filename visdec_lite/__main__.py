"""`python -m visdec_lite ...`, and so `accelerate launch -m visdec_lite train ...` on several GPUs."""

from visdec_lite.cli import main

if __name__ == "__main__":
    main()
