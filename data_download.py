"""Real data sets and large pre-trained weights: python data_download.py list | get | verify | prepare."""

from visdec_lite.downloads.commands import main

if __name__ == "__main__":
    main()
